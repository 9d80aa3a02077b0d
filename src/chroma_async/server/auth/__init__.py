"""Who calls, and what that allows. Nothing of it is loaded by a server that lets everybody in."""
