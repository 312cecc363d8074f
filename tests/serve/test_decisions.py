import hashlib

from standin import picture


def send(client, *pictures):
    files = [("files", (f"{number}.png", data)) for number, data in enumerate(pictures)]
    return client.post("/decisions", files=files)


def test_an_image_is_answered_with_all_that_the_model_says(client):
    data = picture(0.9)
    (result,) = send(client, data).json()["results"]
    case = result["case"]
    assert case["predicted_class"] == "light"
    assert case["decision"] == "accept"
    assert case["probabilities"] == {"dark": 1 - 230 / 255, "light": 230 / 255}
    assert case["error_probability"] == 1 - 230 / 255
    assert case["sha256"] == hashlib.sha256(data).hexdigest()
    assert case["model_fingerprint"] == "f" * 64
    assert not case["reviewed"]
