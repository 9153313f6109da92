"""The library that the numbered scripts share. Importing it prepares the process: see `common.process`."""

from common import process

process.prepare()
