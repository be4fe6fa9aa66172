"""How human-like is a model, and what did alignment cost? One table and page.

Usage:
  python -m alignet_jax.evaluate --model clip=clip.npy --model vice=vice.npy \
    --data data/things --data data/mur92 --out runs/evaluation
  python -m alignet_jax.evaluate --suite usefulness --model b16=features/b16 \
    --classification pets --out runs/pets

--model NAME=PATH is a file or folder of features, or a folder with one of them
per data set (PATH/things, PATH/mur92.npy, PATH/pets/train). A backbone of ours,
NAME=backbone:MODEL:WEIGHTS, and a student of a finished run,
NAME=student:FOLDER:aligned (aligned_head: through its triplet head), compute
features of the --images (once, in OUT/features). --aligned
NAME=MODEL:transform.npz adds a model that is another one, transformed.

Human data are folders of `alignet_jax.judgments.prepare` (--data DIR, or --data
NAME=DIR where two have the same name), or single files. OUT gets scores.json,
scores.csv, scores.parquet (with pyarrow) and report.html; the table is printed,
with --markdown as that of a README. What could not be measured stands in the
table with its reason. --into=README.md#NAME puts command and table between the
lines <!-- evaluation NAME: begin --> and <!-- evaluation NAME: end --> of that
file; --rows says which rows. Exit codes: 0 done; 1 the disk failed; 2 something
that was given is wrong or missing; 130 Ctrl-C.

Images of TensorFlow Datasets, --images SET=tfds:NAME/SPLIT, bring their classes
with them; of others, the class is the folder. The WordNet ids of a table make a
taxonomy: --taxonomy=things_concepts.tsv --synsets="WordNet ID" --wordnet=nltk.

In Python:
  rows, seconds = evaluate.evaluate({"clip": features, "mine": function}, data)
"""

import sys

from alignet_jax import artifacts, commands, progress
from alignet_jax.evals import (
  alignment,
  breeds,
  evaluation_report,
  flags,
  given,
  human_data,
  models,
  readme_table,
  report,
  score,
  usefulness,
)
from alignet_jax.teacher import compare_inputs


def evaluate(
  of_models,
  data=(),
  *,
  suite="all",
  classification=(),
  images=None,
  base=None,
  rsatoolbox_draws=0,
  log=None,
  **settings,
):
  """Scores models by human data and by their usefulness.

  Args:
    of_models: Dict from name to `models.Model`, an array f[n d] (the same rows
      for every data set that they fit), a dict from image set to arrays, or a
      function u8[b h w 3] -> f[b d], which is given the `images`.
    data: Data sets of people; see `alignment.run`.
    suite: "alignment", "usefulness" or "all".
    classification: Names of data sets with the image sets NAME/train and
      NAME/test.
    images: Dict from image set to a collection or u8[n h w 3].
    base: As of `alignment.run`, and so are the next two.
    rsatoolbox_draws: See `base`.
    log: See `base`.
    **settings: Of `usefulness.run`.

  Returns:
    (rows, seconds): list of `score.Score`, and a dict from (model, data set) to
    seconds.

  Raises:
    artifacts.InputError: Another suite, no model, a base that is none of them,
      something that is no model, or two data sets of the same name.
  """
  if suite not in (*score.SUITES, "all"):
    raise artifacts.InputError(
      f"The suite is {suite!r}; expected {', '.join(score.SUITES)} or all."
    )
  if not of_models:
    raise artifacts.InputError("There is no model to evaluate.")
  _check_base("base", base, of_models)
  data, classification = list(data), list(classification)
  for what, names in (
    ("data", [people.name for people in data]),
    ("classification", classification),
  ):
    human_data.check_names(
      [(name, f"number {n} of {what}") for n, name in enumerate(names, start=1)]
    )
  opened = {
    name: _open(name, model, images or {}) for name, model in of_models.items()
  }
  rows, seconds = [], {}
  if suite != "usefulness":
    made, spent = alignment.run(
      opened, data, base=base, rsatoolbox_draws=rsatoolbox_draws, log=log
    )
    rows, seconds = rows + made, seconds | spent
  # Asked for by "all" and not given: said, and not left out in silence.
  for name, wanted, what in (
    ("alignment", data, "no human data was given."),
    ("usefulness", classification, "no data set was given (--classification)."),
  ):
    if suite == "all" and not wanted:
      row = score.skipped(name, name, "all", what)
      rows += [row.of(model) for model in opened]
  if suite != "alignment" and classification:
    made, spent = usefulness.run(
      opened, classification, images=images, log=log, **settings
    )
    rows, seconds = rows + made, seconds | spent
  return rows, seconds


def _check_base(what, base, of_models):
  if base is not None and base not in of_models:
    raise artifacts.InputError(
      f"{what} is {base!r}; there are {', '.join(of_models)}."
    )


def _open(name, model, images):
  if isinstance(model, models.Model):
    return model
  if callable(model):
    return models.from_callable(name, model, images)
  return models.from_features(name, model)


def run(args, *, log=print):
  """Makes the table and the page.

  Args:
    args: Of `flags.parse`.
    log: Called with the table.

  Raises:
    artifacts.InputError: Something that was given cannot be used; names it.
  """
  readme_table.check_measures(args.rows)
  into = readme_table.target(args.into) if args.into else None
  if into:
    readme_table.check(*into)
  out = compare_inputs.make_folder(args.out)
  images = given.open_images(args)
  of_models = given.open_models(args, out)
  data = given.read_data(args, of_models)
  _check_base("--base", args.base, of_models)
  if not data and args.suite == "alignment":
    raise artifacts.InputError(
      "There is no human data; give --data, --triplets, --rdm, --embedding or "
      "--taxonomy."
    )
  if not args.classification and args.suite == "usefulness":
    raise artifacts.InputError("There is no data set; give --classification.")
  rows, seconds = evaluate(
    of_models,
    data,
    suite=args.suite,
    classification=args.classification,
    images=images,
    base=args.base,
    rsatoolbox_draws=args.rsatoolbox_draws,
    log=progress.write,
    severities=args.severities,
    imagenet=args.imagenet,
    hierarchy=breeds.load_hierarchy(args.hierarchy) if args.hierarchy else None,
  )
  about = {
    "given": {k: str(v) for k, v in vars(args).items() if v and k != "command"}
  }
  about["seconds"] = {
    f"{name}, {dataset}": f"{value:.1f}"
    for (name, dataset), value in seconds.items()
  }
  _, missing = score.write(
    out / "scores", rows, about={"given": about["given"]}
  )
  if missing:
    progress.write(f"note: {missing}")
  report.write_report(
    out / "report.html",
    evaluation_report.make(
      rows,
      of_models,
      data,
      title=args.title,
      about=about,
      images=images,
      base=args.base,
    ),
  )
  chosen = readme_table.select(rows, args.rows)
  log(
    score.format_markdown(chosen)
    if args.markdown
    else score.format_text(chosen)
  )
  if into:
    readme_table.replace(*into, readme_table.block(chosen, args.command))
    progress.write(f"wrote the table {into[1]} into {into[0]}")
  progress.write(f"wrote {out}/report.html and {out}/scores.csv")


def main(argv=None):
  """Runs the command; returns the exit code."""
  return commands.exit_code(lambda: run(flags.parse(argv)))


if __name__ == "__main__":
  sys.exit(main())
