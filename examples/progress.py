"""Progress bars, and the losses of a run as they come."""

from __future__ import annotations

from tqdm import tqdm

LOGGED = 5  # steps that a logged training loss averages


class Progress:
    """One bar for the training of an arm, with its latest losses."""

    def __init__(self, name: str, steps: int) -> None:
        self._bar = tqdm(total=steps, desc=f"Fine-tuning, {name}", unit="step")
        self._shown: dict[str, str] = {}

    def advance(self) -> None:
        self._bar.update()

    def show(self, name: str, loss: float) -> None:
        self._shown[name] = f"{loss:.2f}"
        self._bar.set_postfix(self._shown, refresh=False)

    def close(self) -> None:
        self._bar.close()


class Log:
    """The losses of a run, behind its bar."""

    def __init__(self, name: str, steps: int) -> None:
        self.train_losses: list[tuple[int, float]] = []
        self.held_out_losses: list[tuple[int, float]] = []
        self.step = 0
        self._recent: list[float] = []
        self._progress = Progress(name, steps)

    def train(self, loss: float) -> None:
        """One more step was taken; its loss counts at the first and then at every fifth."""
        self.step += 1
        self._recent.append(loss)
        self._progress.advance()
        if self.step == 1 or self.step % LOGGED == 0:
            self.train_losses.append((self.step, sum(self._recent) / len(self._recent)))
            self._progress.show("train", self.train_losses[-1][1])
            self._recent.clear()

    def held_out(self, loss: float) -> None:
        self.held_out_losses.append((self.step, loss))
        self._progress.show("held-out", loss)

    def close(self) -> None:
        self._progress.close()
