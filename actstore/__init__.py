"""actstore"""
