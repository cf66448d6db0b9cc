WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import AsyncTimestepExtension

    return AsyncTimestepExtension()
