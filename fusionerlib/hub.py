"""Where a checkpoint is found (``find_checkpoint``): a folder, a run, the packaged one, or the Hugging Face hub.

On the hub it is ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, downloaded and checked.

Only ``config.json`` and ``model.safetensors`` are downloaded, and neither can hold code. The first load of an address
without a revision records the repository's commit, and later loads take that commit; ``@main`` asks for the newest.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from fusionerlib.digests import read_json, sha256_of, write_json
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.files import CHECKPOINT_FILES, PACKAGED, exclusive, unusable_cache, user_cache, using_cache

SCHEME = "hf://"
PATIENCE = 10.0
"""Seconds to wait for a silent server."""
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def find_checkpoint(checkpoint: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint: given as that folder or a run's folder, by the name of a run in ``outputs``, as
    ``packaged``, or as hf://...

    ``hf://USER/NAME`` and ``hf://USER/NAME@REVISION`` are downloaded where they are missing (``checkpoint_of``).
    Raises FusionerError with the folders searched where none holds ``config.json`` and ``model.safetensors``.
    """
    if str(checkpoint).startswith("hf://"):
        return checkpoint_of(str(checkpoint))
    tried = checkpoint_places(checkpoint)
    if checkpoint == PACKAGED:
        tried.append(Path(__file__).parent / "checkpoint")
    for folder in tried:
        if all(os.path.isfile(folder / file) for file in CHECKPOINT_FILES):
            return folder
    searched = " nor ".join(str(folder.absolute()) for folder in tried)
    runs = [folder.parent.name for folder in Path("outputs").glob("*/checkpoint")]
    near = nearest(str(checkpoint), [PACKAGED, *sorted(runs)])
    raise FusionerError(
        f"no checkpoint {str(checkpoint)!r}: neither {searched} holds {' and '.join(CHECKPOINT_FILES)}; pass the "
        f"folder of a checkpoint or of a run, or a name ({near})"
    )


def checkpoint_places(checkpoint: str | os.PathLike[str], *, base: Path = Path()) -> list[Path]:
    """The folders that a checkpoint's name or path may mean, counted from ``base``, in the order of the search."""
    return [base / checkpoint, base / checkpoint / "checkpoint", base / "outputs" / checkpoint / "checkpoint"]


def checkpoint_of(address: str) -> Path:
    """The folder of the checkpoint at ``address``, downloaded where it is missing.

    ``config.json`` names the sha256 of the weights (``Segmenter.save_pretrained`` writes it), and the sha256 of both
    files are recorded at the first download of a commit (``fusioner/checkpoints.json`` in the user's cache folder).
    Raises FusionerError for an address of another form, for a repository, revision or file that can't be downloaded,
    for a config without a digest, and for a file whose digest is another one.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise FusionerError(f"{address!r} is no address on the hub: expected hf://USER/NAME or hf://USER/NAME@REVISION")
    repo, revision = match["repo"], match["revision"]
    known = _records()
    wanted = revision or known.get(f"{SCHEME}{repo}", {}).get("commit") or "main"
    config = _downloaded(repo, CHECKPOINT_FILES[0], wanted, address)
    commit = config.parent.name
    weights = _downloaded(repo, CHECKPOINT_FILES[1], commit, address)
    found = {file.name: sha256_of(file) for file in (config, weights)}
    pinned = f"{SCHEME}{repo}@{commit}"
    remedy = f"delete {config.parents[2]} to download it again, and tell its author if that does not help"
    recorded = known.get(pinned, {}).get("sha256", found)
    if changed := [name for name in found if found[name] != recorded.get(name)]:
        raise FusionerError(
            f"{pinned}: {changed[0]} has sha256 {found[changed[0]]}, at its first download it was "
            f"{recorded.get(changed[0])}: {remedy}"
        )
    published = _published_digest(config, address)
    if published != found[weights.name]:
        raise FusionerError(
            f"{pinned}: {weights.name} has sha256 {found[weights.name]}, its config.json says {published}: {remedy}"
        )
    new = {pinned: {"sha256": found}} | ({} if revision else {f"{SCHEME}{repo}": {"commit": commit}})
    if any(known.get(key) != value for key, value in new.items()):
        _record(new)
    return config.parent


def upload(folder: Path, repo: str, *, private: bool, token: str | None, message: str) -> str:
    """Upload the files of ``folder`` to the repository ``repo`` (USER/NAME), made if missing; its address, pinned.

    Raises FusionerError where the hub refuses, with its reason.
    """
    from huggingface_hub import HfApi, constants

    from fusionerlib.private_hosts import PrivateAddress, guarded_hub

    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    try:
        with guarded_hub():
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except PrivateAddress as error:
        raise FusionerError(f"{repo!r} can't be uploaded: {error}") from error
    except Exception as error:  # the client raises its HTTP library's errors, which are not always an OSError
        raise FusionerError(
            f"{repo!r} can't be uploaded ({_one_line(error)}): run `hf auth login`, or pass token=..., and check that "
            "the name is USER/NAME with a user or organisation of yours"
        ) from error
    return f"{SCHEME}{repo}@{commit.oid}"


def _downloaded(repo: str, file: str, revision: str, address: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HOME, HF_HUB_OFFLINE

    from fusionerlib.private_hosts import PrivateAddress, guarded_hub

    try:
        # A commit never changes, so what is in the cache is not asked for again.
        cached = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(cached, str) and re.fullmatch(r"[0-9a-f]{40}", revision):
            return Path(cached)
        with guarded_hub():
            if not HF_HUB_OFFLINE:
                # hf_hub_download alone asks six times, for up to several minutes, before it reports no network.
                get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=PATIENCE)
            return Path(hf_hub_download(repo, file, revision=revision))
    except PrivateAddress as error:
        raise FusionerError(f"{address}: {file} can't be downloaded: {error}") from error
    except Exception as error:  # as in ``upload``
        if isinstance(error, OSError) and error.filename:
            raise unusable_cache(HF_HOME, error, "HF_HOME") from error
        raise FusionerError(
            f"{address}: {file} can't be downloaded ({_one_line(error)}): check the name and the revision, run "
            "`hf auth login` for a private repository, or copy the folder here and pass its path"
        ) from error


def _published_digest(config: Path, address: str) -> str:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FusionerError(f"{address}: config.json is no checkpoint's config ({error})") from error
    published = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(published, str):
        raise FusionerError(
            f"{address}: config.json has no sha256 of the weights: publish it with `Segmenter.push_to_hub`"
        )
    return published


def _record_file() -> Path:
    return user_cache() / "fusioner" / "checkpoints.json"


def _records() -> dict[str, Any]:
    file = _record_file()
    remedy = "delete it; what it records is recorded anew at the next load"
    with using_cache(file.parent):
        return read_json(file, what="the digests of what was downloaded", remedy=remedy) if file.exists() else {}


def _record(new: dict[str, Any]) -> None:
    file = _record_file()
    with using_cache(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(file.with_suffix(".lock"), f"writing {file}"):
            write_json(file, dict(sorted((_records() | new).items())))


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
