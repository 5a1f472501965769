"""The applications that are measured over HTTP, one contestant a module, all with the same paths.

/fill   begin a session of 500 bytes     /read   look into it     /write   n += 1
"""
