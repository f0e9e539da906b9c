"""Settings classes: a wrong value is refused in Python just as on the command line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any, Literal

import pytest

from realdpo.config import _adapters, build_settings, settings
from realdpo.curate.caption.config import CaptionConfig
from realdpo.curate.config import IngestConfig, ShardSettings, SourceSettings
from realdpo.errors import UserError
from realdpo.media.encode import EncodeSettings
from realdpo.pairs.config import BuildConfig
from realdpo.publish.config import PushConfig
from realdpo.settings_help import CLASSES, load_class
from realdpo.train.config import TrainConfig
from realdpo.train.evaluate.config import EvalConfig

WRONG = [
    (TrainConfig, {"objective": "dpo2"}),
    (TrainConfig, {"schedule": "cosin"}),
    (TrainConfig, {"precision": "bf-16"}),
    (TrainConfig, {"weights": "LoRA"}),
    (TrainConfig, {"steps": "many"}),
    (IngestConfig, {"engine": "slurm"}),
    (ShardSettings, {"format": "parq"}),
    (SourceSettings, {"hdr": "keep"}),
    (BuildConfig, {"strategies": "generate"}),
    (BuildConfig, {"dtype": "int8"}),
    (EvalConfig, {"dtype": "int8"}),
    (EncodeSettings, {"crf": "low"}),
    (CaptionConfig, {"frames": None}),
    (PushConfig, {"private": "perhaps"}),
]


@pytest.mark.parametrize(("kind", "values"), WRONG, ids=lambda v: str(v))
def test_a_wrong_value_names_its_class_field_and_value(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as python:
        kind(**values)
    ((name, value),) = values.items()
    assert kind.__name__ in python.value.message
    assert name in python.value.message
    assert repr(value) in python.value.message
    with pytest.raises(UserError):
        build_settings(kind, values)


@pytest.mark.parametrize(
    "kind",
    sorted({load_class(command) for command in CLASSES}, key=lambda kind: kind.__name__),
    ids=lambda k: k.__name__,
)
def test_defaults_are_what_their_types_say(kind: type) -> None:
    """A default is taken as it is, so that pydantic is not imported for it."""
    pending = [kind]
    while pending:
        one = pending.pop()
        made = one()
        for name, adapter in _adapters(one).items():
            value = getattr(made, name)
            assert adapter.validate_python(value) == value, name
            if dataclasses.is_dataclass(value):
                pending.append(type(value))


def test_settings_of_defaults_are_made_without_pydantic() -> None:
    program = (
        "import sys; from realdpo.media.encode import EncodeSettings; EncodeSettings();"
        "print('pydantic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


@settings
class Choice:
    name: Literal["sharp", "soft"] = "sharp"
    sizes: tuple[int, ...] = ()
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UserError("share is at most 1")


def test_values_are_converted_and_frozen() -> None:
    made = Choice(sizes=[1, "2"], share=1)
    assert made.sizes == (1, 2)
    assert isinstance(made.share, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "soft"
    assert dataclasses.replace(made, name="soft") == Choice("soft", (1, 2), 1.0)


def test_the_class_s_own_check_comes_after() -> None:
    with pytest.raises(UserError, match="at most 1"):
        Choice(share=2)
    with pytest.raises(UserError, match="share"):
        Choice(share="a lot")
