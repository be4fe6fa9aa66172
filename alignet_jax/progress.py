"""Progress of long work: a bar on a terminal, a line now and then in a file.

Both show the rate and the remaining time, so that a reader of a log knows as
much as one who looks at the terminal. Both count from after the first unit: it
waits for compilation, and would make hours of a minute.

Usage:
  with progress.Progress(num_steps, unit="steps", label="student") as bar:
    for step in range(num_steps):
      ...
      bar.update(loss=loss)
  progress.write("one line that does not break a bar")
"""

import shutil
import sys
import time

import tqdm

# Seconds between two lines where there is no terminal.
INTERVAL = 5.0


class Progress:
  """Shows how far a loop is; a context manager.

  On a terminal this is a bar of tqdm. Elsewhere it prints at most one line per
  `INTERVAL` seconds and one at the end, each written through at once.
  """

  def __init__(self, total, *, unit, label, initial=0, quiet=False):
    """Prepares the display; nothing is printed yet.

    Args:
      total: How many units there are to do.
      unit: Their name in the plural, such as "steps".
      label: What is being done, such as the name of the stage.
      initial: How many were done by an earlier run; they do not count for the
        rate.
      quiet: Whether to show nothing, as where another process shows it.
    """
    self._quiet = quiet
    self._total = total
    self._unit = unit
    self._label = label
    self._initial = initial
    self._done = initial
    self._info = {}
    self._bar = None

  def __enter__(self):
    """Starts the clock, and draws the bar if there is a terminal."""
    self._start = self._shown = time.monotonic()
    self._rate_since = None  # Time and units done; None before the first unit.
    if sys.stdout.isatty() and not self._quiet:
      # Left to itself, tqdm draws nothing where a terminal gives its size as 0,
      # as those of some containers do.
      columns, lines = shutil.get_terminal_size()
      self._bar = tqdm.tqdm(
        desc=self._label,
        total=self._total,
        initial=self._initial,
        unit=f" {self._unit}",
        file=sys.stdout,
        ncols=columns,
        nrows=lines,
      )
    return self

  def update(self, n=1, **info):
    """Counts further units.

    Args:
      n: How many were done since the last call.
      **info: Numbers or words to show, such as the loss.
    """
    self._done += n
    self._info = info
    now = time.monotonic()
    is_first = self._rate_since is None
    if is_first:
      self._rate_since = now, self._done
    if self._bar is not None:
      if info:
        self._bar.set_postfix_str(_format_info(info), refresh=False)
      if is_first:
        self._count_from_here()
      else:
        self._bar.update(n)
    elif now - self._shown >= INTERVAL and self._done < self._total:
      self._print(self._rate_words(now))
      # The next rate is that since this line.
      self._shown, self._rate_since = now, (now, self._done)

  def _count_from_here(self):
    """Lets the bar show what is done but forget how long it took."""
    self._bar.initial = self._bar.n = self._bar.last_print_n = self._done
    self._bar.last_print_t = time.time()
    self._bar.refresh()

  def _rate_words(self, now):
    """Rate and remaining time, as far as they are known."""
    since, done = self._rate_since
    if now <= since:
      return []
    rate = (self._done - done) / (now - since)
    words = [f"{rate:.4g} {self._unit}/s"]
    if rate > 0:
      remaining = (self._total - self._done) / rate
      words.append(f"{format_seconds(remaining)} left")
    return words

  def __exit__(self, kind, error, trace):
    """Prints the last line, unless the loop was left by an error."""
    if self._bar is not None:
      self._bar.close()
    elif kind is None:
      seconds = time.monotonic() - self._start
      rate = (self._done - self._initial) / max(seconds, 1e-9)
      self._print([format_seconds(seconds), f"{rate:.4g} {self._unit}/s"])

  def _print(self, words):
    share = 100 * self._done // max(self._total, 1)
    if self._quiet:
      return
    if self._info:
      words = [*words, _format_info(self._info)]
    counted = f"{self._done}/{self._total} {self._unit} ({share}%)"
    print(f"{self._label}: {', '.join([counted, *words])}", flush=True)


def write(line):
  """Prints one line at once, above a bar if there is one."""
  if sys.stdout.isatty():
    tqdm.tqdm.write(line, file=sys.stdout)
  else:
    print(line, flush=True)


def format_seconds(seconds):
  """Such as "7.2 s", "3 min 04 s" or "2 h 05 min"."""
  if seconds < 59.95:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes:02d} min"


def _format_info(info):
  return ", ".join(
    f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}"
    for name, value in info.items()
  )
