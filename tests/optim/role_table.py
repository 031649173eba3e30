"""A model's roles as short lines: `hidden 8+4+4` has blocks, `embedding T` is stored (in, out)."""

from steepest.optim.roles import ParameterRole, frozen_parameters, parameter_roles


def line(entry: ParameterRole) -> str:
    assert entry.reason.endswith(".")
    assert entry.reason.count(". ") == 0, "one sentence"
    return " ".join(
        [str(entry.role)] + ["+".join(map(str, entry.blocks))] * bool(entry.blocks) + ["T"] * entry.transposed
    )


def table(model, **options) -> dict[str, str]:
    entries = parameter_roles(model, **options)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    assert len(entries) == len(trainable)
    assert len(frozen_parameters(model)) == len(frozen)
    return {entry.name: line(entry) for entry in entries}
