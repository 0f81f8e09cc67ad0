"""Workers: processes that run attempts at steps."""
