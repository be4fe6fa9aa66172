"""Which files outside the workdir each stage reads.

Kept apart from the stages, so that a run can name every missing file at once
and before anything heavy is imported.
"""


def external_inputs(stage_name, config):
  """Lists the files that a stage needs.

  Args:
    stage_name: Name of the stage.
    config: The part of the config that the stage sees.

  Returns:
    A list of `artifacts.ExternalInput`.
  """
  del stage_name, config
  return []
