#!/bin/sh
# The compilers that build mmcv 2.0.1 for a torch that needs a later C++, without touching its source:
#   -std=c++14 becomes -std=c++$CXX_STD, and torch's headers are parsed once instead of once a file
#   (a precompiled header, which leaves the objects as they were and makes the build some three times faster).
# Used by tools/setup_env.py as CXX, and under a name with nvcc in it as PYTORCH_NVCC.
#   CXX_STD    the standard that torch's headers need, as 17
#   REAL_CXX   the C++ compiler to call      PCH_DIR  an empty folder for the precompiled header, or unset
#   REAL_NVCC  the CUDA compiler to call, which gets the flag changed and no precompiled header
set -u
case ${0##*/} in
*nvcc*) real=$REAL_NVCC PCH_DIR= ;;
*) real=$REAL_CXX ;;
esac
for arg do
    shift
    case $arg in
    -std=c++14) arg=-std=c++$CXX_STD ;;
    esac
    set -- "$@" "$arg"
done
case " $* " in
*" -c "*.cpp" "*) ;;
*) exec "$real" "$@" ;;
esac
[ -n "${PCH_DIR:-}" ] || exec "$real" "$@"

header=$PCH_DIR/torch_types.h
precompile() { # with the flags of the file at hand, less its own name and outputs
    skip=0
    for arg do
        shift
        if [ $skip = 1 ]; then skip=0; continue; fi
        case $arg in
        -c | -MMD | *.cpp) continue ;;
        -o | -MF) skip=1; continue ;;
        esac
        set -- "$@" "$arg"
    done
    echo '#include <torch/types.h>' >"$header"
    "$real" "$@" -x c++-header "$header" -o "$header.gch.part" && mv "$header.gch.part" "$header.gch"
}
# tried once: where it fails (a full disk), the files are compiled the slow way
(flock 9; [ -e "$PCH_DIR/tried" ] || { : >"$PCH_DIR/tried"; precompile "$@"; }) 9>"$PCH_DIR/lock"
[ -e "$header.gch" ] || exec "$real" "$@"
exec "$real" -include "$header" "$@"
