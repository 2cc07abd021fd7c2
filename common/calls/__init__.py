"""What every RPC of every service passes through before and after its handler."""
