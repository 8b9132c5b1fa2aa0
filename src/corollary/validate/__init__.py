"""The theory held against a run: what must be true of every healthy one, checked on the records that it leaves."""
