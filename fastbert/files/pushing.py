"""Publishing what can be saved on the Hugging Face hub, by huggingface_hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastbert.errors import HubError

OPTIONS = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr")


class Pushes:
    """Gives a class that has `save_pretrained` the method `push_to_hub`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **saving: Any,
    ) -> str:
        """Uploads what `save_pretrained` writes to a repository on the hub, which is made if absent.

        Args:
            repo_id: "name", or "organisation/name".
            commit_message, commit_description: of the commit; None names the class.
            private: whether a new repository is private; None leaves it to the account's settings.
            token: of the account; None takes the one that `hf auth login` stored.
            revision: branch to commit to; None is the main one.
            create_pr: open a pull request in place of a commit.
            saving: keywords of `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            HubError: the hub cannot be reached, or refuses the upload.
        """
        import huggingface_hub

        api = huggingface_hub.HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)  # type: ignore[attr-defined]
            try:
                made = api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=made.repo_id,
                    folder_path=folder,
                    commit_message=commit_message or f"Upload {type(self).__name__}",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )
            # The hub's client lets through connection errors of whichever HTTP library it uses beside its own kinds.
            except Exception as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise HubError(f"cannot push to {repo_id}: {first} ({type(error).__name__})") from error
        return str(commit.commit_url)


def push_if_asked(one: Pushes, folder: str | Path, asked: bool, options: Mapping[str, Any]) -> None:
    """What `save_pretrained(push_to_hub=True)` does once it has saved: pushes to `repo_id`, by default the folder's name."""
    if asked:
        one.push_to_hub(**{"repo_id": Path(folder).name, **{name: v for name, v in options.items() if name in OPTIONS}})
