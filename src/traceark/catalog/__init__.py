"""The catalog: what is known of every trace's header without a look into its directory.

Derived and bound to one archive in one place; deleting it loses nothing but time.
"""
