# One session of PyPI's docker-registry-client with a registry of the v1 API: everything that it can do there.
# Arguments: URL, CA, repository, user or '', password, tag, folder for the layers, and a tag to add, or ''.
# Says one line of JSON.
import json
import os
import sys

from docker_registry_client import DockerRegistryClient
from requests import HTTPError, get

url, ca, name, user, password, tag, folder, add = sys.argv[1:]
login = {"username": user, "password": password} if user else {}
found = {}
step = None


def session():
    global step
    step = "client"
    client = DockerRegistryClient(url, verify_ssl=ca, api_version=1, **login)
    base = client._base_client
    step = "ping"
    found["ping"] = base.check_status()
    # Where nothing can be searched there may still be something to pull.
    try:
        found["repositories"] = sorted(client.repositories())
    except HTTPError as error:
        found["repositories"] = error.response.status_code
    step = "tags"
    repository = client.repository(name)
    found["tags"] = sorted(repository.tags())
    image = repository.image(tag)
    found["id"] = base.get_image_id(*name.split("/"), tag)
    if add:
        step = "tag"
        found["tagged"] = repository.tag(add, image.image_id)
        repository.refresh()
        found["with it"] = sorted(repository.tags())
        step = "untag"
        found["untagged"] = repository.untag(add)
    step = "ancestry"
    found["ancestry"] = image.ancestry()
    step = "json"
    found["json"] = {}
    for one in found["ancestry"]:
        found["json"][one] = base.get_image_layer(one)
        # Its own method takes layers for JSON.
        layer = base._http_response(base.IMAGE_LAYER, get, image_id=one)
        with open(os.path.join(folder, one), "wb") as file:
            file.write(layer.content)


try:
    session()
except HTTPError as error:
    found["refused"] = [step, error.response.status_code]
print(json.dumps(found))
