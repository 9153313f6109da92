"""The library that the numbered scripts share. Importing it changes nothing; programs call `common.process.prepare`."""
