"""Slides in, tile stores out: finding tissue, planning, cutting, and the command `histotile`.

The pieces are modules of their own: `tiler.slides.open_slide` reads a slide, `tiler.run.extract`
makes the stores of a workload. Importing this package imports none of them.
"""
