"""Parts of `scripts/test-servers`: the real servers that tests run against."""
