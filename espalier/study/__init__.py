"""Many runs: a sweep file becomes trials, a pool of processes runs them, a directory keeps them."""
