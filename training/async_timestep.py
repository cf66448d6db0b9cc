"""The checkout as one package, whoever asks for it: `from async_timestep.tpm.network import ...`.

Python puts the folder of a command on its path, so every command beside this file can say that.
Where ComfyUI has loaded the same folder from its custom_nodes, under a name of its own, its modules
are the ones that are taken: there is one copy of every module in a process.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from pathlib import Path

NAME = "async_timestep"
INIT = Path(__file__).resolve().parents[1] / "__init__.py"


def loaded():
    """The package of this folder that is in the process already, else None."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if hasattr(module, "__path__") and file and Path(file).name == INIT.name:
            if Path(file).resolve() == INIT:
                return module
    return None


def load():
    """The package, loaded under our own name."""
    spec = importlib.util.spec_from_file_location(
        NAME, INIT, submodule_search_locations=[str(INIT.parent)]
    )
    sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OtherName(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives for async_timestep.X the module X of a package that has another name."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.startswith(f"{NAME}."):
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module) -> None:
        name = module.__spec__.name
        sys.modules[name] = importlib.import_module(self.package + name[len(NAME) :])


package = loaded()
if package is None:
    package = load()
else:
    sys.meta_path.insert(0, OtherName(package.__name__))
sys.modules[NAME] = package
