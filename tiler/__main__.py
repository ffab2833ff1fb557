"""`python -m tiler` is the command `histotile`."""

from tiler.cli import main

if __name__ == "__main__":
    main(prog_name="histotile")
