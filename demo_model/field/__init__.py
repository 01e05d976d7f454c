"""Methods of sparse attention from the field beside ours, on the demo model: what each costs and how far it drifts.

`python -m demo_model.field` measures them; `methods` has one file for each, and `grid` the rows.
"""
