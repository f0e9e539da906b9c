"""From words to a manifest that `curate ingest` reads: footage that may be used, with its licence.

A provider is one small module with `search(client, words, cursor)` (commons, archive, pexels,
pixabay) or a list of all it holds (hub, zips, tables). Nothing is downloaded here.
"""
