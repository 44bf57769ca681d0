"""Errors for folders and repositories that are not checkpoints that can be loaded, one sentence for each kind."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
MAX_LISTED = 8


def listed(names: Iterable[str]) -> str:
    """The first few of the names, in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def why_not_loadable(where: str, names: Collection[str], *, need_weights: bool) -> str | None:
    """Return what is wrong with a checkpoint, judged by its file names, and the remedy; None = nothing.

    Args:
        where: the folder or repository, for the sentence.
        names: of its files, without those in subfolders.
        need_weights: False when config.json is enough.
    """
    has_config = "config.json" in names
    if has_config and (not need_weights or SINGLE in names or INDEX in names):
        return None
    if "adapter_config.json" in names:
        return (
            f"{where} holds a LoRA adapter (adapter_config.json), not a whole model: merge it into its base model with"
            " merge_and_unload of peft, save the result, and give that folder"
        )
    if found := [name for name in names if name.lower().endswith(".gguf")]:
        return (
            f"{where} holds GGUF files ({listed(found)}), which are not supported: give the checkpoint that they were"
            " made from, with config.json and safetensors weights"
        )
    if "params.json" in names:
        return (
            f"{where} holds a model in its publisher's own format (params.json): give the version for transformers,"
            " with config.json and safetensors weights"
        )
    if not has_config:
        return f"{where} has no config.json: give the folder of a Hugging Face checkpoint"
    if found := [name for name in names if any(fnmatch(name, pattern) for pattern in PICKLES)]:
        return (
            f"{where} holds pickled weights ({listed(found)}) and no {SINGLE}: unpickling can run any code, so they are"
            " refused; convert them once in a place you trust with"
            " AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    return (
        f"{where} holds neither {SINGLE} nor {INDEX}; download the checkpoint again, or use --load-format dummy for"
        " random weights"
    )
