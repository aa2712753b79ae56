"""Why a run is slower than it should be: what its records tell, and what a few steps show."""
