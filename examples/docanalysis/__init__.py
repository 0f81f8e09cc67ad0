"""The parts of the document analysis example that know nothing of rayflow: ordinary functions on ordinary data.

``documents`` finds the input, ``agents`` does the work, ``report`` puts the answers together. ``plaintext`` and
``words`` are what the agents are made of. Everything runs offline, with data that comes inside the libraries, and
answers the same for the same input in every process; that is what lets a step be repeated after a crash.
"""
