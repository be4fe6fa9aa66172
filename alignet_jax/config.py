"""Configs: loading a file, its short argument, and single fields.

A config file defines `get_config(arg="")`, which returns a ConfigDict. The
argument is what follows a colon, `configs/vit_b16.py:runlocal,seed=1`; single
fields are set with `--config.teacher.lr=1e-3`. Whatever is misspelt is an error
that gives the nearest valid name.

`ml_collections.config_flags` is not used: it answers an unknown field with a
traceback, a missing file with an empty config, and takes any tuple for a tuple.

Usage:
  config = load("configs/quickstart.py:seed=1")
  config = apply_overrides(config, {"teacher.lr": "1e-3"})
  parse_arg(arg, runlocal=False, seed=0)             # inside get_config
"""

import copy
import difflib
import pathlib
import re
import runpy
import traceback

import ml_collections

from alignet_jax import artifacts, typed

PACKAGE = pathlib.Path(__file__).resolve().parent


def split(spec):
  """Splits `FILE[:arg]` into the path and the argument, both str."""
  path, separator, arg = spec.partition(".py:")
  if separator:
    return f"{path}.py", arg
  if spec.endswith(".py"):
    return spec, ""
  path, _, arg = spec.partition(":")
  return path, arg


def find(path):
  """Finds a config file.

  Args:
    path: Absolute, or relative to the working directory; or to the root of the
      repository, or to the installed package, which holds the same `configs`.

  Returns:
    The absolute path.

  Raises:
    artifacts.InputError: If there is none; names the nearest one.
  """
  bases = (pathlib.Path.cwd(), PACKAGE, PACKAGE.parent)
  for base in bases:
    if (base / path).is_file():
      return (base / path).resolve()
  wanted = pathlib.PurePath(path)
  known = {}
  for base in bases:
    for folder in (base / wanted.parent, base / "configs"):
      for file in sorted(folder.glob("*.py")):
        if re.search(r"^def get_config\(", file.read_text("utf-8"), re.M):
          known.setdefault(file.stem, file)
  listed = ", ".join(_short(file) for file in known.values()) or "none here"
  if not wanted.name:
    raise artifacts.InputError(
      "No config file is named; give one as --config=FILE. There are:"
      f" {listed}."
    )
  if not known:
    raise artifacts.InputError(f"There is no config file {path}.")
  near = nearest(wanted.stem, known)
  raise artifacts.InputError(
    f"There is no config file {path}. The nearest one is {_short(known[near])};"
    f" there are: {', '.join(sorted(known))}."
  )


def load(spec):
  """Loads a config.

  Args:
    spec: `FILE[:arg]`; for where the file is looked for, see `find`.

  Returns:
    A locked ConfigDict.

  Raises:
    artifacts.InputError: If there is no such file, it cannot be run, or the
      argument is not one of those that it takes.
  """
  name, arg = split(spec)
  path = find(name)
  try:
    get_config = runpy.run_path(str(path)).get("get_config")
    if get_config is None:
      raise artifacts.InputError("it defines no function get_config(arg).")
    config = get_config(arg)
  except artifacts.InputError as error:
    raise artifacts.InputError(f"{_short(path)}: {error}") from error
  except Exception as error:
    raise artifacts.InputError(
      f"{_short(path)} cannot be run: {_place(error, path)}"
      f"{type(error).__name__}: {error}"
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise artifacts.InputError(
      f"{_short(path)}: get_config returned {type(config).__name__}; a"
      " ConfigDict is needed."
    )
  return config.lock()


def parse_arg(arg, **defaults):
  """Parses the argument of a config file.

  Args:
    arg: `name` or `name=value`, separated by commas; "" for none. A name alone
      means true.
    **defaults: The names allowed. The type of the default is that of the value:
      bool, int, float or str.

  Returns:
    A ConfigDict with the names of `defaults`.

  Raises:
    artifacts.InputError: If a name is unknown or a value has another type.
  """
  values = dict(defaults)
  for item in filter(None, (part.strip() for part in arg.split(","))):
    name, has_value, text = item.partition("=")
    if name not in defaults:
      raise artifacts.InputError(
        f"There is no argument {name!r}.{did_you_mean(name, defaults)}"
      )
    if not has_value and not isinstance(defaults[name], bool):
      raise artifacts.InputError(
        f"The argument {name!r} needs a value of type"
        f" {type(defaults[name]).__name__}, such as {name}={defaults[name]}."
      )
    values[name] = typed.parse(
      text if has_value else "true", defaults[name], f"The argument {name}"
    )
  return ml_collections.ConfigDict(values)


def apply_overrides(config, overrides):
  """Sets single fields from text.

  Args:
    config: ConfigDict; is not changed.
    overrides: Dotted field, without "config." -> text of the value, read as the
      type of the present value; see `typed.parse`.

  Returns:
    A locked copy.

  Raises:
    artifacts.InputError: If there is no such field or the type is another.
  """
  config = copy.deepcopy(config)  # keeps the types of placeholders
  for field, text in overrides.items():
    _override(config, field, text)
  return config.lock()


def nearest(name, known):
  """The known name that is most like the given one, in any case of letters."""
  folded = {}
  for item in known:
    folded.setdefault(item.casefold(), item)
  name = str(name).casefold()
  return folded[difflib.get_close_matches(name, folded, n=1, cutoff=0.0)[0]]


def did_you_mean(name, known):
  """The end of an error message: the nearest name, and all of them."""
  known = list(known)
  if not known:
    return " There are none."
  return (
    f" Did you mean {nearest(name, known)!r}? There are: {', '.join(known)}."
  )


def _override(config, field, text):
  """Sets one field in place."""
  group, path = config, "config"
  *parents, leaf = field.split(".")
  for i, key in enumerate([*parents, leaf]):
    if not isinstance(group, ml_collections.ConfigDict):
      raise artifacts.InputError(
        f"There is no config.{field}: {path} is {typed.describe(group)}, not a"
        " group of fields."
      )
    if key not in group:
      raise artifacts.InputError(
        f"There is no config.{field}. Did you mean"
        f" {_nearest_field(config, group, path, key)}? The fields of {path}"
        f" are: {', '.join(sorted(group)) or 'none'}."
      )
    path = f"{path}.{key}"
    if i < len(parents):
      group = group[key]
  present = group[leaf]
  if isinstance(present, ml_collections.ConfigDict):
    raise artifacts.InputError(
      f"{path} is a group of fields; set one of them:"
      f" {', '.join(f'{path}.{key}' for key in sorted(present))}."
    )
  if present is None:
    # A placeholder of ml_collections knows the type that it waits for.
    waits_for = group.get_type(leaf)
    present = waits_for() if waits_for in (bool, int, float, str) else None
  group[leaf] = typed.parse(text, present, path)


def _nearest_field(config, group, path, key):
  """The nearest field at this level, or the same name at another one."""
  elsewhere = [name for name in _groups(config) if key in name[1]]
  if elsewhere and not difflib.get_close_matches(key, list(group)):
    return f"{elsewhere[0][0]}.{key}"
  return f"{path}.{nearest(key, group)}" if group else "config"


def _groups(config, path="config"):
  """All groups of a config with their dotted names, the outermost first."""
  groups = [(path, config)]
  for key in config:
    if isinstance(config[key], ml_collections.ConfigDict):
      groups += _groups(config[key], f"{path}.{key}")
  return groups


def _place(error, path):
  """The line of the config file at which an error arose, such as "line 7: "."""
  if isinstance(error, SyntaxError):
    return f"line {error.lineno}: "
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path)
  ]
  return f"line {lines[-1]}: " if lines else ""


def _short(path):
  """A path as one would type it: relative, where that is shorter."""
  try:
    return str(path.relative_to(pathlib.Path.cwd()))
  except ValueError:
    return str(path)
