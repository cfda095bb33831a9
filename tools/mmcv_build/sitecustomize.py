"""Let MMCV 2.0.1 find its version while Python 3.13 builds it.

MMCV's setup.py calls `exec()` in a function and expects the new name in `locals()`. In Python 3.13 this works only if
`exec()` gets the namespace of its caller. Python imports this file at its start if the folder is in PYTHONPATH.
"""

import builtins
import sys


def exec_in_caller(code, namespace=None, *arguments, exec=exec, **options):
    if namespace is None:
        caller = sys._getframe(1)
        namespace, arguments = caller.f_globals, (caller.f_locals,)
    exec(code, namespace, *arguments, **options)


if sys.version_info >= (3, 13):
    builtins.exec = exec_in_caller
