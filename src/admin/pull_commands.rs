//! The commands that pull an image through the gateway, for each client. Pure.

use serde::Serialize;

use mirror::ImageReference;

/// How a client pulls an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PullCommand {
    client: &'static str,
    command: String,
    /// What has to be configured for it.
    note: Option<String>,
}

/// The commands for an image; `gateway` is the authority of the gateway's first listener, if clients can reach one over
/// TCP.
pub(super) fn of(image: &ImageReference, gateway: Option<&str>) -> Vec<PullCommand> {
    let registry = &image.name.registry;
    let mut commands = Vec::new();
    if let Some(gateway) = gateway {
        let through = format!("{gateway}/{image}");
        for (client, command) in [
            ("docker", format!("docker pull {through}")),
            ("podman", format!("podman pull {through}")),
            (
                "skopeo",
                format!("skopeo copy docker://{through} dir:image"),
            ),
            ("crane", format!("crane pull {through} image.tar")),
        ] {
            let note = None;
            commands.push(PullCommand {
                client,
                command,
                note,
            });
        }
    }
    let note = format!("needs /etc/containerd/certs.d/{registry}/hosts.toml");
    commands.push(PullCommand {
        client: "containerd",
        command: format!("ctr image pull --hosts-dir /etc/containerd/certs.d {image}"),
        note: Some(note),
    });
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::name::{Reference, Registry, RepositoryName};

    #[test]
    fn commands_name_the_gateway_and_the_image() {
        let repository = "library/app".parse().expect("a name");
        let image = ImageReference {
            name: RepositoryName::new(&Registry::new("docker.io"), &repository),
            reference: Reference::Tag("1".parse().expect("a tag")),
        };
        let commands = of(&image, Some("gateway.example:5000"));
        let docker = "docker pull gateway.example:5000/docker.io/library/app:1";
        assert_eq!(commands[0].command, docker);
        assert_eq!(commands.len(), 5);
        let local = of(&image, None);
        assert_eq!(local.len(), 1);
        assert!(local[0].command.ends_with(" docker.io/library/app:1"));
    }
}
