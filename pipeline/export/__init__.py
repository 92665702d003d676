"""Cards as code that runs elsewhere. One target a file here: dropping a file in registers it."""
