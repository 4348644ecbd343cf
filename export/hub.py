"""Checkpoints by name: out of the cache or downloaded, and held against what is known of them.

Files of Hugging Face go through huggingface_hub and lie in its cache, which other tools share; files that
are linked elsewhere lie beside it, in HF_HOME/rofo. HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN mean
what they mean to huggingface_hub.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rofo.export.catalogue import Download, find_download
from rofo.export.errors import DownloadError
from rofo.text import one_line

SCHEME = "hf://"

_LINK = re.compile(rf"{SCHEME}([\w.-]+/[\w.-]+)(?:@([^/@]+))?/([^@]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 5
_SECONDS = 30  # until a hub that says nothing is given up

Tell = Callable[[str], None]


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine, and the yaml that was published with it, if there is one.

    `name` is the catalogue's, or that of the file without its ending.
    """

    name: str
    checkpoint: Path
    config: Path | None


@dataclass(frozen=True)
class HubLink:
    """A file of a repository of Hugging Face; the revision is a commit, a branch or a tag."""

    repo: str
    revision: str
    file: str

    @classmethod
    def parse(cls, text: str) -> "HubLink":
        """From hf://owner/repo[@revision]/file. Raises DownloadError."""
        found = _LINK.fullmatch(text)
        if not found or ".." in found[3].split("/"):
            raise DownloadError(f"{text}: not a link to a file; give hf://owner/repo@revision/file")
        return cls(found[1], unquote(found[2] or "main"), found[3])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{self.revision}/{self.file}"

    def pinned(self, path: Path) -> "HubLink":
        """At the commit that a file of the cache is from: `path` is .../snapshots/COMMIT/FILE."""
        return replace(self, revision=path.parts[-1 - len(PurePosixPath(self.file).parts)])


def fetch_checkpoint(name: str, tell: Tell = _quiet) -> Fetched:
    """The files of a checkpoint of the catalogue, or of hf://owner/repo[@revision]/file.

    What is known of the file (sha256, size) is checked, also of one in the cache; `tell` hears its licence
    before anything is downloaded. Checkpoint and yaml of one repository are of one commit. With a link goes
    the yaml beside the file, where there is one only or one of its name. Raises CheckpointError for a name
    that is not known, DownloadError.
    """
    if name.startswith(SCHEME):
        link = HubLink.parse(name)
        path = _from_hub(link, Download(name), tell)
        return Fetched(path.stem, path, _yaml_beside(link.pinned(path), path, tell))
    download = find_download(name)
    path = _fetch(download, tell)
    if download.config is None:
        return Fetched(download.name, path, None)
    config = download.config
    if download.link.startswith(SCHEME) and config.startswith(SCHEME):
        link, yaml = HubLink.parse(download.link), HubLink.parse(config)
        if (link.repo, link.revision) == (yaml.repo, yaml.revision):
            config = str(replace(yaml, revision=link.pinned(path).revision))
    return Fetched(download.name, path, _fetch_yaml(config, tell))


def _fetch(download: Download, tell: Tell) -> Path:
    if download.link.startswith(SCHEME):
        return _from_hub(HubLink.parse(download.link), download, tell)
    return _from_web(download, tell)


def _fetch_yaml(link: str, tell: Tell) -> Path:
    tell(f"{link}: the yaml")
    return _fetch(Download(link), _quiet)


def _yaml_beside(pinned: HubLink, path: Path, tell: Tell) -> Path | None:
    """Of the repository's yaml files; offline, of those that are in the cache."""
    folder = PurePosixPath(pinned.file).parent
    here = [str(folder / file.name) for file in path.parent.iterdir()]
    files = [PurePosixPath(file) for file in (here if _offline() else _Listing.of(pinned).files)]
    yamls = [file for file in files if file.parent == folder and file.suffix in (".yaml", ".yml")]
    chosen = [file for file in yamls if file.stem == path.stem] or yamls
    if len(chosen) == 1:
        return _fetch_yaml(str(replace(pinned, file=str(chosen[0]))), tell)
    if chosen:
        tell(f"{pinned}: no yaml taken, there are {_listed(yamls)}; choose with --config hf://...")
    return None


# Hugging Face


@dataclass(frozen=True)
class _Listing:
    """What the hub says of a revision: {file: (size, sha256)}, and the licence on the repository's card."""

    commit: str
    files: dict[str, tuple[int | None, str | None]]
    licence: str | None

    @classmethod
    def of(cls, link: HubLink) -> "_Listing":
        from huggingface_hub import HfApi

        with _in_words(link):
            info = HfApi().model_info(
                link.repo, revision=link.revision, files_metadata=True, timeout=_SECONDS
            )
        files = {
            file.rfilename: (file.size, file.lfs.sha256 if file.lfs is not None else None)
            for file in info.siblings or ()
        }
        return cls(str(info.sha), files, info.card_data.get("license") if info.card_data else None)


def _from_hub(link: HubLink, download: Download, tell: Tell) -> Path:
    """The file in the cache, after a download where it is not there; one without a hash is asked for anew."""
    hub = _library(link)
    with _in_words(link):
        cached = hub.try_to_load_from_cache(link.repo, link.file, revision=link.revision)
    certain = _COMMIT.fullmatch(link.revision) or download.sha256 or download.tail_md5
    if isinstance(cached, str) and (certain or _offline()):
        path, known = Path(cached), download
        tell(f"{link.pinned(path)}: in the cache; {_licence(known)}")
    elif _offline():
        raise _not_here(link)
    else:
        listing = _Listing.of(link)
        known = _compared(link, download, listing)
        tell(f"{replace(link, revision=listing.commit)}: {_announced(known, listing.licence)}")
        with _in_words(link):
            path = Path(hub.hf_hub_download(link.repo, link.file, revision=link.revision))
    _verify(path, known)
    return path


def _compared(link: HubLink, download: Download, listing: _Listing) -> Download:
    """With what the hub says of a file, before it is downloaded. Raises DownloadError where it is another."""
    if link.file not in listing.files:
        suffix = PurePosixPath(link.file).suffix
        like = _listed([file for file in listing.files if file.endswith(suffix)]) or f"no {suffix}"
        raise DownloadError(
            f"{link}: no such file, moved or removed: the repository has {like}; give "
            f"hf://owner/repo@revision/file{_hash(download)}"
        )
    size, sha256 = listing.files[link.file]
    for what, wanted, found in (("sha256", download.sha256, sha256), ("size", download.size, size)):
        if wanted and found and wanted != found:
            raise DownloadError(
                f"{link}: not downloaded, another file than the catalogue's: its {what} is {found}, not "
                f"{wanted}; give its hf:// link to have this one, or an earlier revision"
            )
    return replace(download, size=download.size or size, sha256=download.sha256 or sha256)


@contextmanager
def _in_words(link: HubLink) -> Iterator[None]:
    """Whatever huggingface_hub raises, the errors of its network library too, as a DownloadError."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{link.repo}"
        raise DownloadError(f"{link}: needs its owner's consent; ask on {page}, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"{link}: no such repository at {constants.ENDPOINT}, moved, removed or private; give the path "
            "of a copy of the file, or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise DownloadError(f"{link}: no such revision; give another, or none for the newest") from None
    except errors.HFValidationError as error:
        raise DownloadError(f"{link}: {one_line(error)}; give hf://owner/repo@revision/file") from None
    except Exception as error:
        raise DownloadError(
            f"{link}: not downloaded from {constants.ENDPOINT} ({one_line(error.__cause__ or error, 200)}); "
            "run it again, set HF_ENDPOINT to a mirror, or give the path of a copy"
        ) from error


# Any other server


def _from_web(download: Download, tell: Tell) -> Path:
    """A file of a plain https server: resumed where it was cut, put under its name when it is whole."""
    _library(download.link)
    from filelock import FileLock
    from huggingface_hub.constants import HF_HOME

    address = urlsplit(download.link)
    host, path = address.netloc.replace(":", "_"), address.path.split("/")[1:]
    target = Path(HF_HOME, "rofo", host, *path)
    if target.exists():
        tell(f"{download.link}: in the cache; {_licence(download)}")
        _verify(target, download)
        return target
    if _offline():
        raise _not_here(download.link)
    tell(f"{download.link}: {_announced(download)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            _get(download, part)
            _verify(part, download)
            part.replace(target)
    return target


def _get(download: Download, part: Path) -> None:
    """The rest of the file, behind what is there of it."""
    from huggingface_hub.file_download import http_get

    plain = {"Accept-Encoding": "identity"}  # a length in the answer is that of the compressed text otherwise
    try:
        with part.open("ab") as file:
            http_get(download.link, file, resume_size=file.tell(), headers=plain, expected_size=download.size)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404:
            raise DownloadError(
                f"{download.link}: no such file, moved or removed; give the path of a copy{_hash(download)}"
            ) from None
        if status == 416:
            part.unlink()  # longer than the file
        raise DownloadError(
            f"{download.link}: not downloaded ({one_line(error, 200)}); run it again, which goes on where it "
            "was cut, or give the path of a copy"
        ) from error


# Both


def _library(link: object) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise DownloadError(
            f"{link}: huggingface_hub is not installed; pip install 'rofo[hub]', or give the path of the file"
        ) from None
    return huggingface_hub


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _not_here(link: object) -> DownloadError:
    return DownloadError(f"{link}: not in the cache, and HF_HUB_OFFLINE is set; unset it, or give a path")


def _verify(path: Path, known: Download) -> None:
    """Hold a file against its size and hash. Removes it, and raises DownloadError, where it is another."""
    from rofo.export.source.file_kind import digests

    size = path.stat().st_size
    sha256, tail_md5 = digests(path) if known.sha256 or known.tail_md5 else (None, None)
    for what, wanted, found in (
        ("size", known.size, size),
        ("sha256", known.sha256, sha256),
        ("MD5 of the last 10,240,000 bytes", known.tail_md5, tail_md5),
    ):
        if wanted and wanted != found:
            path.resolve().unlink()  # what a link in the cache leads to
            path.unlink(missing_ok=True)
            raise DownloadError(
                f"{known.link}: removed, not the file it should be: its {what} is {found}, not {wanted}; run "
                "it again, or give the path of a copy"
            )


def _announced(known: Download, card: str | None = None) -> str:
    size = f"{known.size / 1e6:.1f} MB" if known.size else "size unknown"
    unchecked = "" if known.sha256 or known.tail_md5 else "; no hash known to check it by"
    return f"{size}; {_licence(known, card)}{unchecked}"


def _licence(known: Download, card: str | None = None) -> str:
    if card and not known.licence:
        return f"licence: unknown, its repository says {card}"
    return f"licence: {known.licence or 'unknown'}"


def _hash(download: Download) -> str:
    return f" (its sha256 is {download.sha256})" if download.sha256 else ""


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
