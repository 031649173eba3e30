# SPDX-License-Identifier: Apache-2.0
"""The places where a model's parameters live, with the names they would have without wrappers."""

from dataclasses import dataclass
from typing import Any, final

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

# Attributes under which wrappers keep the module they wrap: compile, FSDP1, activation checkpointing.
_WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# `module` is a wrapper's attribute only inside these; a user's own module may have a part of that name.
_DATA_PARALLEL = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "AveragedModel"}
_LISTS = (nn.ParameterList, nn.ParameterDict)


@final
@dataclass(frozen=True)
class Site:
    """One place where a parameter lives.

    Args:
        name: Full name without the prefixes of wrappers.
        parameter: The parameter.
        owners: The module that holds it, then the modules around that one, outermost last.
        attribute: Its name in that module; of a parametrized or weight-normalized tensor the tensor's name.
        is_magnitude: It is the magnitude of a weight normalization, one number a row.
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[nn.Module, ...]
    attribute: str
    is_magnitude: bool

    @property
    def module(self) -> nn.Module:
        """The module that holds the parameter."""
        return self.owners[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor: DeepSpeed partitions it flat and keeps its shape beside it."""
        return tuple(getattr(self.parameter, "ds_shape", self.parameter.shape))

    @property
    def words(self) -> tuple[str, ...]:
        """Components of the name, those of the tensor's own machinery left out, without numbers."""
        return tuple(word for word in self.name.split(".") if not word.isdigit() and word not in _MACHINERY)

    @property
    def projection(self) -> str:
        """Name of the projection: of the parameter itself, or of the module whose `weight` it is."""
        words = self.words
        return words[-2] if self.attribute == "weight" and len(words) > 1 else words[-1] if words else ""

    @property
    def is_numbered(self) -> bool:
        """Whether it lies in a list of modules."""
        return any(word.isdigit() for word in self.name.split(".")[:-1])


_MACHINERY = {"base_layer", "parametrizations", "original", "original0", "original1", "default"}


def find_sites(model: nn.Module) -> list[Site]:
    """Return every place of every parameter, in the order of registration.

    Args:
        model: Any module.

    Raises:
        ValueError: If a lazy module has not seen an input yet, or a layer's weight was flattened by a sharding that
            does not keep shapes.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    sites = []
    for path, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{path}.{attribute}" if path else attribute
            if is_lazy(parameter):
                raise ValueError(f"{full} has no shape yet; run the model on an input once")
            sites.append(_site(full, parameter, _owners(path, modules), modules))
            _check_dimensions(sites[-1])
    return sites


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside data-parallel, compile and averaging wrappers."""
    while True:
        children = dict(model.named_children())
        inner = next((children[name] for name in _WRAPPED if name in children), None)
        if inner is None and type(model).__name__ in _DATA_PARALLEL:
            inner = children.get("module")
        if inner is None:
            return model
        model = inner


def type_name(module: nn.Module) -> str:
    """Return the name of the class, without the classes that sharding and parametrization put before it."""
    cls: Any = type(module)
    if parametrize.is_parametrized(module) or any(base.__name__ == "FSDPModule" for base in cls.__mro__):
        cls = next(
            base
            for base in cls.__mro__
            if not base.__name__.startswith("FSDP") and (not base.__name__.startswith("Parametrized"))
        )
    return cls.__name__


def is_a(module: nn.Module, *class_names: str) -> bool:
    """Whether the module's class or one it inherits from has one of these names; nothing is imported for it."""
    return any(base.__name__ in class_names for base in type(module).__mro__)


def _check_dimensions(site: Site) -> None:
    """Refuse a matrix that looks like a vector: it would get a vector's rule and nobody would notice."""
    module, dims = site.module, len(site.shape)
    expected = 2 if isinstance(module, (nn.Linear, nn.Embedding, nn.EmbeddingBag)) else dims
    if isinstance(module, nn.modules.conv._ConvNd):
        expected = 2 + len(module.kernel_size)
    is_flat = site.name.rpartition(".")[2] == "weight" and dims != expected
    if site.parameter.requires_grad and (is_flat or type(site.parameter).__name__ == "FlatParameter"):
        raise ValueError(
            f"{site.name} of {type_name(module)} has shape {site.shape}, where {expected} dimensions were expected: "
            "its storage was flattened for sharding; take the roles before that, or shard with fully_shard (FSDP2)"
        )


def _owners(path: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, ...]:
    parts = path.split(".") if path else []
    return tuple(modules[".".join(parts[:length])] for length in range(len(parts), -1, -1))


def _site(full: str, parameter: nn.Parameter, owners: tuple[nn.Module, ...], modules: dict[str, nn.Module]) -> Site:
    parts = full.split(".")
    kept = [part for i, part in enumerate(parts) if not _is_wrapper(part, modules.get(".".join(parts[:i])))]
    attribute, magnitude = parts[-1], False
    if len(parts) > 2 and parts[-3] == "parametrizations":
        magnitude = _is_magnitude(owners[0], attribute)
        attribute, owners = parts[-2], owners[2:]
    elif attribute.endswith(("_g", "_v")) and all(hasattr(owners[0], attribute[:-1] + end) for end in "gv"):
        magnitude, attribute = attribute.endswith("_g"), attribute[:-2]
    elif attribute.endswith("_orig"):
        attribute = attribute.removesuffix("_orig")
    elif isinstance(owners[0], _LISTS):
        attribute = next((part for part in reversed(kept) if not part.isdigit() and part != "default"), attribute)
    return Site(".".join(kept), parameter, owners, attribute, magnitude)


def _is_magnitude(parametrization: Any, attribute: str) -> bool:
    """Of a weight normalization's two tensors, whether this is the one with a number a row."""
    return (
        attribute == "original0"
        and hasattr(parametrization, "original1")
        and parametrization.original0.numel() < parametrization.original1.numel()
    )


def _is_wrapper(part: str, parent: nn.Module | None) -> bool:
    return part in _WRAPPED or (part == "module" and type(parent).__name__ in _DATA_PARALLEL)
