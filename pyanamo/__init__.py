"""The front door: the command `pyanamo`. Commands return data, renderers print it (pyanamo/render.py)."""
