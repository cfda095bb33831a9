#!/bin/sh
# A wrapper of the C++ compiler. It builds unchanged MMCV 2.0.1 for a torch that needs a newer C++ standard:
#   -std=c++14 becomes -std=c++$CXX_STD;
#   torch's headers are precompiled once, not parsed for every file. This makes the build three times as fast.
# tools/setup_env.py sets CXX to this file, and also
#   REAL_CXX  the compiler to call
#   CXX_STD   the standard that torch's headers need, such as 17
#   PCH_DIR   a folder for the precompiled header
set -u
for arg do
    shift
    case $arg in
    -std=c++14) arg=-std=c++$CXX_STD ;;
    esac
    set -- "$@" "$arg"
done
case " $* " in
*" -c "*.cpp" "*) ;;
*) exec "$REAL_CXX" "$@" ;;
esac
case $("$REAL_CXX" --version) in
*clang*) exec "$REAL_CXX" "$@" ;; # clang needs other commands for precompiled headers
esac

header=$PCH_DIR/torch_types.h
precompile() { # with the flags of this call, but without its source file and outputs
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
    "$REAL_CXX" "$@" -x c++-header "$header" -o "$header.gch.part" && mv "$header.gch.part" "$header.gch"
}
# The first call tries to precompile. If that fails, all files are compiled without the precompiled header.
(flock 9; [ -e "$PCH_DIR/tried" ] || { : >"$PCH_DIR/tried"; precompile "$@"; }) 9>"$PCH_DIR/lock"
[ -e "$header.gch" ] || exec "$REAL_CXX" "$@"
exec "$REAL_CXX" -include "$header" "$@"
