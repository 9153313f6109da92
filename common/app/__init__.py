"""The page in the browser: figures examined, shown, corrected and handed over, and the same by HTTP."""
