"""The folder of a run: whose it is, what it says before the first step, and how it goes on.

`config.json` and `mix.json` are written first, checkpoints and logs while it runs,
`encoder.safetensors` at the end. The same command on the same folder goes on where it stopped; a
run of other settings or other tiles is refused, for its weights would be of neither.
"""

from __future__ import annotations

import json
from pathlib import Path

from manifests.files import Json, pretty_json, write_atomic
from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.network.encoder import ENCODER_FILE, steps_behind
from pretrain.running.checkpoint import checkpoints
from pretrain.running.plan import Plan
from pretrain.views.viewconfig import ViewConfig

CONFIG_FILE = "config.json"
MIX_FILE = "mix.json"


def check_folder(plan: Plan, resume: str) -> bool:
    """Whether the folder holds a run of this plan, which can go on.

    False if it is new or empty, or if its run has no checkpoint yet and so begins anew.

    Raises:
        ConfigError: it holds something else, or a run of other settings or tiles.
    """
    out = plan.out
    if not out.exists():
        return False
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; give --out a folder that is new, empty or a run's")
    # A run that was killed while it wrote what it is has written nothing else.
    found = {path.name for path in out.iterdir() if not path.match(".*.tmp")}
    if not found - {".lock", MIX_FILE}:
        return False
    if not (out / CONFIG_FILE).is_file():
        raise ConfigError(f"{out} is in use and holds no run; give --out a folder that is new")
    if resume == "never":
        raise ConfigError(f"{out} holds a run already; give another --out, or --resume auto")
    if not checkpoints(out) and not (out / ENCODER_FILE).exists():
        return False  # it ended before it had anything to lose
    differing = _differences(_json(out / CONFIG_FILE), plan)
    if differing:
        raise ConfigError(
            f"{out} holds a run of other settings ({'; '.join(differing[:5])}): repeat its command "
            "to go on with it, or give another --out"
        )
    return True


def can_go_on(out: Path, config: TrainConfig) -> bool:
    """Whether an unfinished run lies in a folder whose settings are those that `config` gives."""
    if not (out / CONFIG_FILE).is_file():
        return False
    recipe = _json(out / CONFIG_FILE)
    if is_finished(out, recipe.get("steps")):
        return False
    before = recipe.get("train", {})
    given = json.loads(json.dumps(config.to_json()))
    names = exact_names(config) - {"precision"}
    return all(given[name] in (None, before.get(name)) for name in names)


def is_finished(out: Path, steps: int | None) -> bool:
    """Whether a run folder holds the encoder after the run's last step, not one from before it."""
    return steps is not None and steps_behind(out / ENCODER_FILE) == steps


def begin_folder(plan: Plan) -> None:
    """Write what a run is, before its first step."""
    write_atomic(plan.out / MIX_FILE, pretty_json(plan.mix.to_json()))
    write_atomic(plan.out / CONFIG_FILE, pretty_json(plan.recipe()))


def _differences(recipe: Json, plan: Plan) -> list[str]:
    """The settings of a recipe that are not the plan's, in words."""
    before, now = recipe.get("train", {}), json.loads(json.dumps(plan.config.to_json()))
    found = [
        f"{name.replace('_', '-')} was {_text(before.get(name))}, is {_text(now[name])}"
        for name in sorted(exact_names(plan.config))
        if name != "views" and before.get(name) != now[name]
    ]
    views = before.get("views", {})
    for name in ViewConfig.__dataclass_fields__:
        if views.get(name) != now["views"][name]:
            flag = "views" if name == "preset" else name.replace("_", "-")
            found.append(f"{flag} was {_text(views.get(name))}, is {_text(now['views'][name])}")
    if recipe.get("manifest_sha256") != plan.manifest_sha256:
        found.append("the manifest has changed since")
    return found


def exact_names(config: TrainConfig) -> set[str]:
    """Names of the settings that must stay when a run goes on."""
    fields = config.__dataclass_fields__
    return {name for name, item in fields.items() if item.metadata.get("exact", True)}


def _text(value: Json) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _json(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give another --out") from error
    return found if isinstance(found, dict) else {}
