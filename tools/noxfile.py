"""Run the tests with each set of versions (`make matrix`), or with one (`make matrix ARGS="-s python3.12"`).

tools/setup_env.py makes the environment of each session in .matrix/. Later runs reuse it.
"""

from pathlib import Path

import nox

REPO = Path(__file__).resolve().parent.parent


def add_session(name: str, python: str, **settings: str) -> None:
    env = REPO / '.matrix' / name
    # If pyenv provides `python3.12`, the command works only if PYENV_VERSION names that version.
    settings |= {'BGP_PYTHON_ENV': '', 'BGP_VENV': str(env), 'PYENV_VERSION': python}

    @nox.session(name=name, venv_backend='none')
    def run_tests(session: nox.Session) -> None:
        session.chdir(REPO)
        session.run(f'python{python}', 'tools/setup_env.py', env=settings)
        session.run(str(env / 'bin/python'), '-m', 'pytest', 'tests', *session.posargs)


for version in ('3.10', '3.11', '3.12', '3.13'):
    add_session(f'python{version}', version)
add_session('fork', '3.11', BGP_OPENMMLAB='fork')
