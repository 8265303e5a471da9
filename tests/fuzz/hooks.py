"""Puts ids of what exists where the document says `{id}`, so that most requests get past the door."""

import json
import os

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode

KNOWN = json.loads(os.environ["LEDGERLINE_FUZZ_KNOWN"])


def _known(path, name, known):
    """The ids that fit a parameter: by the noun of the path, or by the parameter's own name."""
    if name == "id":
        nouns = [part for part in path.split("/") if part and not part.startswith("{")]
        return next((known[noun] for noun in reversed(nouns) if noun in known), [])
    return known.get(name, [])


@schemathesis.hook
def map_case(context, case):
    path = case.meta.components.get(ParameterLocation.PATH) if case.meta else None
    # What is wrong on purpose stays wrong.
    if not case.path_parameters or (path and path.mode is GenerationMode.NEGATIVE):
        return case
    # What one example removes is there no more for the next: those that may be removed are others.
    known = KNOWN["spare"] if case.method.upper() == "DELETE" else KNOWN
    filled = dict(case.path_parameters)
    for name, value in case.path_parameters.items():
        ids = _known(case.operation.path, name, known)
        # Three in four: the rest stays what nobody has ever heard of. By the value itself, so that a run can be repeated.
        choice = sum(str(value).encode()) % 4
        if ids and choice:
            filled[name] = ids[(choice - 1) % len(ids)]
    case.path_parameters = filled
    return case
