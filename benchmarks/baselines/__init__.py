"""What others do: placements and routings as functions of the same types as ours."""
