"""How pods and nodes behave, as data: stages in YAML, in kwok's form, compiled when they are loaded.

`general.yaml`, the default, is a life like a kubelet's; `fast.yaml` one without delays; `chaos.yaml` adds what pods ask
for by the annotation `listwatch.dev/simulate`. `docs/stages.md` is the guide.
"""

from controllers.core.stages.kubelet import CRASH_LOOP, Setting, qos_class, set_condition
from controllers.core.stages.reading import Option, Source, StageError, read_stages
from controllers.core.stages.stage import FOREVER, Delay, Stage, Stages, check_stages, draw

# What pods and templates may say of themselves.
SIMULATE = "listwatch.dev/simulate"
RUN_SECONDS = "listwatch.dev/run-seconds"
EXIT_CODE = "listwatch.dev/exit-code"

__all__ = [
    "CRASH_LOOP",
    "EXIT_CODE",
    "FOREVER",
    "RUN_SECONDS",
    "SIMULATE",
    "Delay",
    "Option",
    "Setting",
    "Source",
    "Stage",
    "StageError",
    "Stages",
    "check_stages",
    "draw",
    "qos_class",
    "read_stages",
    "set_condition",
]
