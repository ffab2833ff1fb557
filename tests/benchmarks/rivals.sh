#!/bin/sh
# Make a virtual environment for each rival of the benchmark: rivals.sh FOLDER [NAME...]
#
# Names: hs2p (default), wsi-patching, lazyslide. The last two bring torch or half of scverse along,
# gigabytes of it. `python -m tests.benchmarks.extract --rivals FOLDER` then times what it finds.
set -eu
folder=${1:?usage: rivals.sh FOLDER [NAME...]}
shift
python=${PYTHON:-python3.11}
[ $# -gt 0 ] || set -- hs2p

for name in "$@"; do
    case $name in
        # PyTurboJPEG 2 wants libjpeg-turbo 3, which Debian 12 does not have.
        hs2p) packages='hs2p[openslide]==6.1.0 PyTurboJPEG<2' ;;
        wsi-patching) packages='wsi-patching==0.5.5 torch' ;;
        lazyslide) packages='lazyslide==0.13.0 fastslide==0.8.1' ;;
        *) echo "rivals.sh: no rival is called $name" >&2; exit 2 ;;
    esac
    "$python" -m venv "$folder/$name"
    # Unquoted on purpose: one word per package.
    "$folder/$name/bin/pip" install --quiet $packages
    "$folder/$name/bin/pip" freeze > "$folder/$name/installed.txt"
done
