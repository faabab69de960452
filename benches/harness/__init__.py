"""Parts of `benches/compare`: the only user of these modules."""
