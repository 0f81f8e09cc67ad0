"""Makes `tests` ours: without this file, a package of that name in site-packages would win."""
