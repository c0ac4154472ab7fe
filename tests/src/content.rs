//! What real clients fetch: one wheel behind a simple index, one npm package, one crate behind a sparse index, one git repository
//! over smart HTTP.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::http::{Reply, Request};

/// The host that serves Python packages.
pub const PYTHON_INDEX: &str = "python.example.org";
/// The host that serves npm packages.
pub const NODE_REGISTRY: &str = "node.example.org";
/// The host that serves crates.
pub const RUST_REGISTRY: &str = "rust.example.org";
/// The host that serves git repositories.
pub const GIT_HOST: &str = "git.example.org";
/// The name of the one package of each kind.
pub const PACKAGE: &str = "tiny-package";
/// The path of the one repository.
pub const REPOSITORY: &str = "/tiny.git";
/// What the repository's one file says.
pub const REPOSITORY_TEXT: &str = "one file\n";

const WHEEL: &str = "tiny_package-1.0.0-py3-none-any.whl";
const TARBALL: &str = "tiny-package-1.0.0.tgz";

/// Packages and a repository, made on the spot, and the handler that serves them by host.
pub struct Content {
    wheel: Vec<u8>,
    tarball: Vec<u8>,
    crate_file: Vec<u8>,
    repositories: PathBuf,
}

impl Content {
    /// Makes everything in `directory`, with python3, tar and git.
    ///
    /// # Errors
    /// When one of them is missing or fails.
    pub fn make(directory: &Path) -> Result<Self> {
        Ok(Self {
            wheel: make_wheel(&directory.join("wheel"))?,
            tarball: make_tarball(&directory.join("npm"))?,
            crate_file: make_crate(&directory.join("cargo"))?,
            repositories: make_repository(&directory.join("git"))?,
        })
    }

    /// Answers by the `Host` of the request; a host without content of its own greets.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Reply {
        match request.host() {
            PYTHON_INDEX => self.python(request.path()),
            NODE_REGISTRY => self.node(request.path()),
            RUST_REGISTRY => self.rust(request.path()),
            GIT_HOST => git_backend(&self.repositories, request)
                .unwrap_or_else(|error| Reply::new(500, format!("{error:#}"))),
            host => Reply::new(200, format!("hello from {host}\n")).with("Content-Type", "text/plain"),
        }
    }

    /// A simple repository (PEP 503): a page of links, and the files.
    fn python(&self, path: &str) -> Reply {
        if path == format!("/simple/{PACKAGE}/") {
            let digest = hex(&Sha256::digest(&self.wheel));
            let page = format!(
                "<!DOCTYPE html><html><body><a href=\"/files/{WHEEL}#sha256={digest}\">{WHEEL}</a></body></html>"
            );
            Reply::new(200, page).with("Content-Type", "text/html")
        } else if path == format!("/files/{WHEEL}") {
            Reply::new(200, self.wheel.clone()).with("Content-Type", "application/octet-stream")
        } else {
            Reply::new(404, "no such page")
        }
    }

    /// A sparse index of one crate, and its file.
    fn rust(&self, path: &str) -> Reply {
        if path == "/index/config.json" {
            let config = serde_json::json!({ "dl": format!("https://{RUST_REGISTRY}/crates") });
            Reply::new(200, config.to_string()).with("Content-Type", "application/json")
        } else if path == format!("/index/ti/ny/{PACKAGE}") {
            let digest = hex(&Sha256::digest(&self.crate_file));
            let version = serde_json::json!({
                "name": PACKAGE, "vers": "1.0.0", "deps": [], "cksum": digest, "features": {}, "yanked": false,
            });
            Reply::new(200, format!("{version}\n")).with("Content-Type", "text/plain")
        } else if path == format!("/crates/{PACKAGE}/1.0.0/download") {
            Reply::new(200, self.crate_file.clone()).with("Content-Type", "application/octet-stream")
        } else {
            Reply::new(404, "no such crate")
        }
    }

    fn node(&self, path: &str) -> Reply {
        if path == format!("/{PACKAGE}") {
            let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(&self.tarball)));
            let version = serde_json::json!({
                "name": PACKAGE,
                "version": "1.0.0",
                "dist": { "tarball": format!("https://{NODE_REGISTRY}/{PACKAGE}/-/{TARBALL}"), "integrity": integrity },
            });
            let document = serde_json::json!({
                "name": PACKAGE, "dist-tags": { "latest": "1.0.0" }, "versions": { "1.0.0": version },
            });
            Reply::new(200, document.to_string()).with("Content-Type", "application/json")
        } else if path == format!("/{PACKAGE}/-/{TARBALL}") {
            Reply::new(200, self.tarball.clone()).with("Content-Type", "application/octet-stream")
        } else {
            Reply::new(404, "{}").with("Content-Type", "application/json")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes files below `directory`.
fn write(directory: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn run(program: &str, args: &[&str], directory: &Path) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {args:?}: {output:?}");
    Ok(())
}

/// A wheel is a zip file with a module and its metadata.
fn make_wheel(directory: &Path) -> Result<Vec<u8>> {
    let info = "tiny_package-1.0.0.dist-info";
    write(
        directory,
        &[
            ("tiny_package.py", "GREETING = 'hello'\n"),
            (&format!("{info}/METADATA"), "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0.0\n"),
            (
                &format!("{info}/WHEEL"),
                "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            (
                &format!("{info}/RECORD"),
                &format!("tiny_package.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"),
            ),
        ],
    )?;
    run("python3", &["-m", "zipfile", "-c", WHEEL, "tiny_package.py", info], directory)?;
    Ok(fs::read(directory.join(WHEEL))?)
}

fn make_tarball(directory: &Path) -> Result<Vec<u8>> {
    write(
        directory,
        &[
            (
                "package/package.json",
                "{\"name\":\"tiny-package\",\"version\":\"1.0.0\",\"main\":\"index.js\"}\n",
            ),
            ("package/index.js", "module.exports = 'hello'\n"),
        ],
    )?;
    run("tar", &["-czf", TARBALL, "package"], directory)?;
    Ok(fs::read(directory.join(TARBALL))?)
}

fn make_crate(directory: &Path) -> Result<Vec<u8>> {
    let (folder, file) = (format!("{PACKAGE}-1.0.0"), "tiny-package.crate");
    write(
        directory,
        &[
            (
                &*format!("{folder}/Cargo.toml"),
                "[package]\nname = \"tiny-package\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
            ),
            (&*format!("{folder}/src/lib.rs"), "pub const HELLO: &str = \"hello\";\n"),
        ],
    )?;
    run("tar", &["-czf", file, &folder], directory)?;
    Ok(fs::read(directory.join(file))?)
}

/// A bare repository with one commit of one file, in the folder that is returned.
fn make_repository(directory: &Path) -> Result<PathBuf> {
    write(directory, &[("work/README", REPOSITORY_TEXT)])?;
    let work = directory.join("work");
    run("git", &["init", "--quiet", "--initial-branch=main"], &work)?;
    run("git", &["add", "README"], &work)?;
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
    run("git", &[&identity[..], &["commit", "--quiet", "-m", "One file"]].concat(), &work)?;
    run("git", &["clone", "--quiet", "--bare", "work", "tiny.git"], directory)?;
    Ok(directory.to_owned())
}

/// Runs git's own server program by the rules of CGI (RFC 3875).
fn git_backend(root: &Path, request: &Request) -> Result<Reply> {
    let field = |name: &str| request.head.field(name).unwrap_or_default().to_owned();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        // The folder belongs to whoever runs the test, which git wants to be told inside a user namespace.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", request.path())
        .env("QUERY_STRING", request.query())
        .env("CONTENT_TYPE", field("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", field("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run git http-backend")?;
    child.stdin.take().context("its input")?.write_all(&request.body)?;
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").context("the end of the CGI head")?;
    let (head, body) = output.split_at(end);
    let mut reply = Reply::new(200, body.get(4..).unwrap_or_default());
    for line in String::from_utf8_lossy(head).lines() {
        let (name, value) = line.split_once(": ").context("a CGI field")?;
        if name.eq_ignore_ascii_case("status") {
            reply.status = value.split(' ').next().unwrap_or_default().parse()?;
        } else {
            reply = reply.with(name, value);
        }
    }
    Ok(reply)
}
