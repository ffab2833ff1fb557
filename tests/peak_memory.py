"""`python -m tests.peak_memory ARGUMENTS`: histotile, then its processes' peak memory in MB."""

import resource
import subprocess
import sys

if __name__ == "__main__":
    done = subprocess.run([sys.executable, "-m", "tiler", *sys.argv[1:]], check=False)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    sys.exit(done.returncode)
