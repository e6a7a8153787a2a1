"""Ways from other logging libraries to femtomp; import each by its full name.

Each uses femtomp by its public names alone, and loads its library only when it is used.
"""
