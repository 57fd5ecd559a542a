"""The packages of the extra `captioning`, which nothing else here needs."""

import importlib.util

from recognition.common.command_line import InputError

PACKAGES = ("transformers", "sacrebleu", "nltk")


def check_packages(*names: str) -> None:
    """Raises InputError if one of the packages is not installed, all of them if none is named: before any work whose
    end needs them."""
    if missing := [name for name in names or PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"captions need {' and '.join(missing)}, not installed here: pip install -e '.[captioning]'")
