"""`python -m pretrain` is the command `histopretrain`."""

from pretrain.cli import main

if __name__ == "__main__":
    main(prog_name="histopretrain")
