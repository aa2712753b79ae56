"""To the Hugging Face hub; its token is read here and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from espalier import dotenv
from espalier.data.download import reason, unreachable
from espalier.errors import MachineError, UserError, need

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def token() -> str:
    """From the environment, a .env file of this directory, or the hub's own cache."""
    places = os.environ, dotenv.read()
    found = next(filter(None, (held.get(name) for held in places for name in VARIABLES)), None)
    found = found or need("huggingface_hub", "hf").get_token()
    if not found:
        raise UserError(
            "no token for the hub: set HF_TOKEN, write HF_TOKEN=… into .env, or run `hf auth "
            "login`. --dry-run prepares the folder without one"
        )
    return found.strip()


def upload(folder: Path, repo: str, secret: str, message: str, *, private: bool) -> str:
    """Make the repository where there is none, and send the folder in one commit; its address.

    Raises UserError where the hub refuses, MachineError where it cannot be reached; both say where
    the folder is and how to send it by hand.
    """
    hub = need("huggingface_hub", "hf")
    ready = f"{folder} is ready; send it later with: hf upload {repo} {folder}"
    api = hub.HfApi(token=secret)
    try:
        made = api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        # The answer has the full name: `name` alone is the user's own.
        full = getattr(made, "repo_id", None) or repo
        api.upload_folder(
            repo_id=full, repo_type="model", folder_path=str(folder), commit_message=message
        )
    except Exception as error:
        raise _told(error, secret, ready) from None
    return f"{hub.constants.ENDPOINT}/{full}"


def _told(error: Exception, secret: str, ready: str) -> Exception:
    """What went wrong as one line, without the token; a bug of ours stays one."""
    said = reason(error).replace(secret, "***")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"the hub refuses the token or the repository (HTTP {status}). {ready}")
    if status is not None:
        return MachineError(f"the hub answers HTTP {status}: {said}. {ready}")
    network = isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore"))
    if network or unreachable(error) or type(error).__name__ == "OfflineModeIsEnabled":
        return MachineError(f"the hub cannot be reached ({said}). {ready}")
    if type(error).__module__.startswith("huggingface_hub") or isinstance(error, ValueError):
        return UserError(f"the hub's client refuses: {said}. {ready}")
    return error
