"""A language model by one string: a catalogue name, a folder, a .gguf file, or a hub id (`org/name`, `org/name@revision`).

Weights are read from safetensors alone: pickle runs code when it is read, so it is refused. A model's own code is never run.
Whatever does not fit (tokenizer and embedding, configuration and weights) is refused before it can train.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, cast

from corollary.errors import ModelError
from corollary.models import catalogue, hub
from corollary.models.archives import cache_root, file_digest, locked, settle
from corollary.models.chat_template import give

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
CONVERSION = 1  # of GGUF files; raise it when what `read_gguf` writes changes

_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a model lies on this machine."""

    name: str  # as the user wrote it
    folder: Path  # config.json, *.safetensors, tokenizer
    licence: str  # SPDX identifier where there is one, else "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to generate and to train, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]  # every token that ends an answer; padding is told by lengths, never by these
    name: str
    path: Path
    licence: str
    max_positions: int | None  # tokens of prompt and answer together; None: the architecture sets no limit

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """The text of one token, control tokens written out."""
        return str(self.tokenizer.decode([token]))

    def place(self, device: torch.device) -> None:
        """Move the weights to `device`."""
        from torch import nn

        nn.Module.to(self.model, device)


def load_model(
    name: str, *, dtype: Dtype = "float32", chat_template: str = "", announce: catalogue.Announce | None = None
) -> LoadedModel:
    """The model and tokenizer called `name`.

    Args:
        name: a catalogue name, else a folder or .gguf file that exists, else a hub id; a folder called like a catalogue entry is `./name`.
        dtype: of the weights in memory.
        chat_template: in place of the model's own: see `chat_template.give`; empty: its own. What ends an answer in it ends sampling.
        announce: called once with the catalogue entry before its first download.

    Raises:
        ModelError: it cannot be found, reached or read, has only pickle weights, needs code of its own, or its parts do not fit.

    Source: the weights are read by `transformers.AutoModelForCausalLM`, those of a reward model (which has a scalar head in place of
        that for language) by `AutoModelForSequenceClassification`.
    """
    import torch

    located = locate(name, announce=announce)
    tokenizer = _tokenizer(located, chat_template)
    config = _config(located)
    _check_vocabulary(config, tokenizer, located)
    model = _weights(located, config, {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    ends = stop_token_ids(model, tokenizer)
    if chat_template and model.can_generate() and model.generation_config:
        model.generation_config.eos_token_id = list(ends)  # an exported model stops there too
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        eos_token_ids=ends,
        name=name,
        path=located.folder,
        licence=located.licence,
        max_positions=_text_field(config, "max_position_embeddings"),
    )


def load_tokenizer(
    name: str, *, chat_template: str = "", announce: catalogue.Announce | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model called `name`, without its weights; the rest as for `load_model`."""
    return _tokenizer(locate(name, announce=announce), chat_template)


def locate(name: str, *, announce: catalogue.Announce | None = None) -> Located:
    """The folder of the model called `name`, fetched or converted where it has to be.

    Raises:
        ModelError: there is no such model, it cannot be reached, or it has no weights that are safe to read.
    """
    if catalogue.is_entry(name):
        return _from_catalogue(catalogue.entry(name), announce)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return Located(name=name, folder=_from_gguf(path), licence="not stated")
    if path.is_file():
        raise ModelError("a file, and no .gguf", where=name, hint="give the model's folder", code="E0307")
    if path.is_dir():
        _check_weights(path)
        return Located(name=name, folder=path, licence=_licence(path))
    hub_id, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id) or hub_id.startswith(("./", "../")):
        close = catalogue.nearest(name, "model")
        hint = (
            f"did you mean {close}?" if close else "give a folder, a .gguf file, a catalogue name or a hub id org/name"
        )
        raise ModelError(f"there is no model {name!r}", hint=hint, code="E0301")
    folder = _from_hub(hub_id, revision or None)
    _check_weights(folder)
    return Located(name=name, folder=folder, licence=_licence(folder))


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends an answer: those of the generation settings, of the model and of the tokenizer together, ascending.

    Raises:
        ModelError: none of the three names one.
    """
    generation = model.generation_config.eos_token_id if model.can_generate() and model.generation_config else None
    ids = _as_list(generation) + _as_list(_text_field(model.config, "eos_token_id")) + _as_list(tokenizer.eos_token_id)
    if not ids:
        what = "neither the model nor its tokenizer names an end-of-sequence token"
        raise ModelError(
            what,
            where=str(model.config.name_or_path),
            hint="set eos_token_id in its generation_config.json",
            code="E0309",
        )
    return tuple(sorted(set(ids)))


def _as_list(ids: Any) -> list[int]:
    """One token id, a list of them, or None, as a list."""
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]


# ---------------------------------------------------------------------------------------------------------------- where it lies


def _from_catalogue(entry: catalogue.Entry, announce: catalogue.Announce | None) -> Located:
    if entry.kind != "model":
        raise ModelError(f"{entry.name!r} is a data set", hint="corollary models lists the models", code="E0301")
    folder = cache_root() / "models" / f"{entry.name}-{entry.key}-{CONVERSION}"
    source = {"name": entry.name, "source": entry.source, "licence": entry.licence, "licence_note": entry.licence_note}
    _converted(folder, lambda: catalogue.fetch(entry.name, announce=announce), source)
    return Located(name=entry.name, folder=folder, licence=entry.licence)


def _from_gguf(path: Path) -> Path:
    stat = path.resolve().stat()
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_root() / "models" / f"{path.stem}-{key}-{CONVERSION}"
    _converted(folder, lambda: path, {"name": path.name, "source": str(path.resolve())})
    return folder


def _converted(folder: Path, gguf: Callable[[], Path], source: Mapping[str, str]) -> None:
    """Makes `folder` out of a GGUF file, which is not touched where the folder is whole."""
    if _whole(folder):
        return
    path = gguf()
    with locked(folder), TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        if _whole(folder):
            return
        from corollary.models.gguf import read_gguf

        made = Path(scratch) / "model"
        made.mkdir()
        with quiet():
            read_gguf(path, made)
        files = {p.name: {"size": p.stat().st_size, "sha256": file_digest(p)} for p in sorted(made.iterdir())}
        record = {
            **source,
            "gguf": {"file": path.name, "sha256": file_digest(path)},
            "conversion": CONVERSION,
            "files": files,
        }
        (made / "provenance.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        settle(made, folder)


def _whole(folder: Path) -> bool:
    """Whether every file that the folder's provenance records is there in its full size."""
    try:
        files = json.loads((folder / "provenance.json").read_bytes())["files"]
        return all((folder / name).stat().st_size == record["size"] for name, record in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _from_hub(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with hub.reached(hub_id) as unreachable:
        try:
            folder = snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md"],
                ignore_patterns=["*/*", "consolidated*"],
            )
        except Exception as error:  # the hub's client raises a dozen classes; all mean that the model cannot be had
            reason = unreachable or f"{type(error).__name__}: {_first_line(error)}"
            hint = "check the name and the network, log in for a gated model, or give a folder"
            raise ModelError(f"cannot be had from the hub ({reason})", where=hub_id, hint=hint, code="E0303") from error
    return Path(folder)


def _check_weights(folder: Path) -> None:
    """Refuses a folder without configuration, and one whose weights are not safetensors inside it."""
    if not (folder / "config.json").is_file():
        raise ModelError("no config.json in it", where=str(folder), hint="give the folder of a model", code="E0307")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_index(index)
    elif not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        what = (
            f"{pickles[0]}: pickle weights are refused, reading them can run any code"
            if pickles
            else "no *.safetensors in it"
        )
        raise ModelError(what, where=str(folder), hint="give a model whose weights are safetensors", code="E0304")


def _check_index(index: Path) -> None:
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("not a readable index of weights", where=str(index), code="E0306") from error
    for name in sorted(map(str, files)):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"names {name!r}; weights are safetensors files beside it", where=str(index), code="E0304")
        if not (index.parent / name).is_file():
            raise ModelError(
                f"names {name}, which is missing", where=str(index), hint="fetch the model again", code="E0306"
            )


def _licence(folder: Path) -> str:
    """The `license:` of a model card's front matter."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else "not stated"


# ------------------------------------------------------------------------------------------------------------- what is read there

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def _tokenizer(located: Located, chat_template: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _reading(located, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(located.folder, **_LOCAL)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # fills rows; what is filled is told by lengths
    if chat_template:
        give(tokenizer, chat_template)
    return tokenizer


def _config(located: Located) -> PretrainedConfig:
    from transformers import AutoConfig

    with _reading(located, "config.json"):
        return AutoConfig.from_pretrained(located.folder, **_LOCAL)


def _weights(located: Located, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The language model, or the reward model where the folder holds one."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    ranks = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if ranks and config.num_labels != 1:
        what = f"a classifier of {config.num_labels} classes; a reward model has one output"
        raise ModelError(what, where=located.name, hint="give a language model or a reward model", code="E0308")
    with _reading(located, "weights"):
        pair = (AutoModelForSequenceClassification if ranks else AutoModelForCausalLM).from_pretrained(
            located.folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    model, found = cast("tuple[PreTrainedModel, dict[str, set[str]]]", pair)
    if missing := sorted(found["missing_keys"]):
        what = f"the weights lack {len(missing)} tensors that config.json asks for, the first {missing[0]}"
        raise ModelError(what, where=located.name, hint="config.json and weights are of different models", code="E0308")
    return model.eval()


def _check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, located: Located) -> None:
    """Refuses a tokenizer that gives ids the embedding has no row for."""
    rows = _text_field(config, "vocab_size")
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and highest >= rows:
        what = f"the tokenizer gives ids up to {highest}, the model's embedding has {rows} rows"
        raise ModelError(what, where=located.name, hint="tokenizer and model are not of one kind", code="E0308")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for token in _as_list(_text_field(config, name)):
            if rows is not None and token >= rows:
                raise ModelError(
                    f"config.json: {name} is {token}, the embedding has {rows} rows", where=located.name, code="E0308"
                )


def _text_field(config: PretrainedConfig, name: str) -> Any:
    """A setting of the language model, also where it is one part of a larger model."""
    return config.get_text_config().to_dict().get(name)


@contextmanager
def _reading(located: Located, part: str) -> Iterator[None]:
    """Turns whatever damaged or foreign files make `transformers` raise into one line, and keeps it quiet."""
    try:
        with quiet():
            yield
    except Exception as error:
        own_code = "trust_remote_code" in str(error)
        what = (
            "needs code of its own, which is never run"
            if own_code
            else f"its {part} cannot be read ({_first_line(error)})"
        )
        raise ModelError(what, where=located.name, code="E0310" if own_code else "E0306") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and warnings of `transformers`; as before afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
