//! Where the API is and who calls it: flags, then the environment, then the login, then the data directory.
//!
//! What a login holds is for the API it was made for, and is never shown to another one. The token of a data directory is for
//! the server that runs on it (see `Whereabouts`), or for one whose certificate says who it is.

use std::path::{Path, PathBuf};

use clap::Args;

use super::client::ClientError;
use super::credential::Credential;
use super::login::Login;
use crate::api::{Token, Whereabouts};
use crate::config::default_data_dir;

pub const DEFAULT_API: &str = "http://127.0.0.1:9292";

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The API [env: DAYPASS_API] [default: that of the login, else http://127.0.0.1:9292]
    #[arg(long, global = true, value_name = "URL")]
    pub api: Option<String>,
    /// File with a token for the API [env: DAYPASS_TOKEN_FILE; the token itself: DAYPASS_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The server's data directory, if it is on this machine: its token is an administrator's [env: DAYPASS_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate [default: those the system trusts]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate to show
    #[arg(long, global = true, value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What the flags and all else come to.
#[derive(Debug)]
pub struct Settings {
    pub api: String,
    pub credential: Credential,
    pub ca_file: Option<PathBuf>,
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    pub fn load(args: &Connection) -> Result<Self, ClientError> {
        let env = |name: &str| std::env::var(name).ok();
        let named = args.token_file.is_some() || args.data_dir.is_some() || args.cert_file.is_some();
        let login = match Login::load(&env) {
            // Whoever says who calls needs no login, and none that is broken.
            Err(_) if named && args.api.is_some() => None,
            login => login?,
        };
        Self::resolve(args, &env, login.as_ref())
    }

    fn resolve(
        args: &Connection,
        env: &dyn Fn(&str) -> Option<String>,
        login: Option<&Login>,
    ) -> Result<Self, ClientError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let named = args.api.clone().or_else(|| env("DAYPASS_API"));
        let named = named.or_else(|| login.map(|login| login.api.clone()));
        let api = named.clone().unwrap_or_else(|| DEFAULT_API.to_owned());
        let is_local = is_on_this_machine(&api);
        if !api.starts_with("https://") && !is_local {
            return Err(ClientError::usage(format!(
                "--api: {api} would carry the token in clear; use https://"
            )));
        }
        let stranger = login.filter(|login| !login.is_for(&api));
        let login = login.filter(|login| login.is_for(&api));
        let ca_file = args.ca_file.clone().or_else(|| login.and_then(|login| login.ca_file.clone()));
        let identity = identity(args, login)?;
        let found = credential(args, &env, login, identity.is_some(), &api).and_then(|found| match found {
            Found::Credential(credential) => Ok((credential, None)),
            Found::DataDir(dir) => of_data_dir(&dir, named.as_deref()),
        });
        let (credential, place) = found.map_err(|error| match stranger {
            Some(login) => ClientError::usage(format!(
                "{error}; the login is for {}, not for {api}: `daypass login --api {api}`",
                login.api
            )),
            None => error,
        })?;
        Ok(Self { api: place.unwrap_or(api), credential, ca_file, identity })
    }
}

fn identity(args: &Connection, login: Option<&Login>) -> Result<Option<(PathBuf, PathBuf)>, ClientError> {
    match (&args.cert_file, &args.key_file) {
        (Some(cert), Some(key)) => Ok(Some((cert.clone(), key.clone()))),
        (None, None) => Ok(login.and_then(|login| login.cert_file.clone().zip(login.key_file.clone()))),
        _ => Err(ClientError::usage("--cert-file and --key-file go together".to_owned())),
    }
}

fn credential(
    args: &Connection,
    env: &dyn Fn(&str) -> Option<String>,
    login: Option<&Login>,
    has_identity: bool,
    api: &str,
) -> Result<Found, ClientError> {
    let read = |path: &Path| {
        let token = Token::read(path).map_err(ClientError::Token)?;
        Ok(Found::Credential(Credential::Token(token)))
    };
    if let Some(path) = &args.token_file {
        return read(path);
    }
    // Whoever names a data directory means its token.
    if let Some(dir) = &args.data_dir {
        return Ok(Found::DataDir(dir.clone()));
    }
    if args.cert_file.is_some() {
        return Ok(Found::Credential(Credential::None));
    }
    if let Some(text) = env("DAYPASS_TOKEN") {
        return Ok(Found::Credential(Credential::Token(Token::new(&text))));
    }
    if let Some(path) = env("DAYPASS_TOKEN_FILE") {
        return read(Path::new(&path));
    }
    if let Some(found) = login.and_then(Login::credential) {
        return Ok(Found::Credential(found));
    }
    if has_identity {
        return Ok(Found::Credential(Credential::None));
    }
    if let Some(dir) = env("DAYPASS_DATA_DIR") {
        return Ok(Found::DataDir(dir.into()));
    }
    // The token of this machine's server is for this machine's server.
    if is_on_this_machine(api) { Ok(Found::DataDir(default_data_dir())) } else { Err(ClientError::NoToken) }
}

enum Found {
    Credential(Credential),
    /// Its token, for its server.
    DataDir(PathBuf),
}

/// The token, and where the server is that it is for, if that is known better than by the name.
fn of_data_dir(dir: &Path, named: Option<&str>) -> Result<(Credential, Option<String>), ClientError> {
    let path = Token::path_in(dir);
    if !path.exists() {
        return Err(ClientError::NoTokenIn(path));
    }
    let credential = Token::read(&path).map(Credential::Token).map_err(ClientError::Token)?;
    // Its certificate says who it is.
    if named.is_some_and(|api| api.starts_with("https://")) {
        return Ok((credential, None));
    }
    let whereabouts = Whereabouts::of(dir)
        .map_err(|source| ClientError::File { place: dir.display().to_string(), source })?;
    match whereabouts {
        Whereabouts::Nobody => Err(ClientError::NoServerOf(dir.to_owned())),
        Whereabouts::At(at) if named.is_none_or(|named| is_same(named, &at)) => Ok((credential, Some(at))),
        Whereabouts::At(at) => Err(ClientError::ServerElsewhere {
            data_dir: dir.to_owned(),
            at,
            asked: named.unwrap_or(DEFAULT_API).to_owned(),
        }),
    }
}

/// `localhost` is whatever the server listens on: the call goes to that address, and not to what the name leads to.
fn is_same(named: &str, at: &str) -> bool {
    let parse = |url: &str| url.parse::<http::Uri>().ok();
    let (Some(named), Some(at)) = (parse(named), parse(at)) else { return false };
    let is_host = named.host() == at.host() || named.host() == Some("localhost");
    is_host && named.scheme() == at.scheme() && named.port_u16() == at.port_u16()
}

pub fn is_on_this_machine(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    uri.as_ref().and_then(http::Uri::host).is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::api::Place;

    struct Places {
        dir: tempfile::TempDir,
    }

    impl Places {
        fn token(&self, name: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, format!("{}\n", name.replace('/', "-"))).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        }
    }

    fn bearer(settings: &Settings) -> String {
        match &settings.credential {
            Credential::Token(token) => token.bearer(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_login_which_beats_the_data_directory() {
        let places = Places { dir: tempfile::tempdir().unwrap() };
        let data_dir = places.dir.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let address = DEFAULT_API.strip_prefix("http://").unwrap().parse().unwrap();
        let _server = Place::take(&data_dir, address, false).unwrap();
        let (flag, file, _) = (places.token("flag"), places.token("file"), places.token("data/token"));
        let login = Login { api: DEFAULT_API.into(), token: Some("login".into()), ..Login::default() };
        let resolve = |args: &Connection, env: &[(&str, &str)], login: Option<&Login>| {
            let env = |name: &str| {
                env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            Settings::resolve(args, &env, login)
        };
        let data = ("DAYPASS_DATA_DIR", data_dir.to_str().unwrap());
        let (of_file, direct) = (("DAYPASS_TOKEN_FILE", file.to_str().unwrap()), ("DAYPASS_TOKEN", "direct"));
        let none = Connection::default();
        let by_flag = Connection { token_file: Some(flag), ..Connection::default() };
        let by_dir = Connection { data_dir: Some(data_dir.clone()), ..Connection::default() };
        for (args, env, login, expected) in [
            (&by_flag, &[data, of_file, direct][..], Some(&login), "Bearer flag"),
            (&by_dir, &[of_file, direct], Some(&login), "Bearer data-token"),
            (&none, &[data, of_file, direct], Some(&login), "Bearer direct"),
            (&none, &[data, of_file, ("DAYPASS_TOKEN", "")], Some(&login), "Bearer file"),
            (&none, &[data], Some(&login), "Bearer login"),
            (&none, &[data], None, "Bearer data-token"),
        ] {
            assert_eq!(bearer(&resolve(args, env, login).unwrap()), expected);
        }
        assert!(matches!(
            resolve(&none, &[("DAYPASS_DATA_DIR", "/nonexistent")], None),
            Err(ClientError::NoTokenIn(_))
        ));
    }

    #[test]
    fn the_token_of_a_data_directory_is_for_its_server_alone() {
        let places = Places { dir: tempfile::tempdir().unwrap() };
        places.token("token");
        let dir = places.dir.path();
        let to = |api: Option<&str>| {
            let args = Connection {
                api: api.map(str::to_owned),
                data_dir: Some(dir.to_owned()),
                ..Connection::default()
            };
            Settings::resolve(&args, &|_| None, None)
        };
        let exit = |api: Option<&str>| to(api).unwrap_err().exit() as u8;
        // Whoever may listen where the server once was.
        assert_eq!((exit(None), exit(Some(DEFAULT_API))), (6, 6));
        let server = Place::take(dir, "127.0.0.1:7001".parse().unwrap(), false).unwrap();
        for api in [
            None,
            Some("http://127.0.0.1:7001"),
            Some("http://127.0.0.1:7001/"),
            Some("http://localhost:7001"),
        ] {
            assert_eq!(to(api).unwrap().api, "http://127.0.0.1:7001", "{api:?}");
        }
        for api in [DEFAULT_API, "http://127.0.0.1:7002", "http://127.0.0.2:7001", "http://[::1]:7001"] {
            let error = to(Some(api)).unwrap_err();
            assert!(error.exit() as u8 == 2 && error.to_string().contains("not shown to"), "{api}: {error}");
        }
        // A certificate says who it is.
        assert_eq!(to(Some("https://localhost:9")).unwrap().api, "https://localhost:9");
        drop(server);
        assert_eq!(exit(Some("http://127.0.0.1:7001")), 6, "it has gone");
    }

    #[test]
    fn a_login_is_for_its_own_api() {
        let login = Login {
            api: "https://jit.corp:9292".into(),
            token: Some("secret".into()),
            ca_file: Some("/ca.pem".into()),
            ..Login::default()
        };
        let to = |api: Option<&str>| {
            let args = Connection { api: api.map(str::to_owned), ..Connection::default() };
            Settings::resolve(&args, &|_| None, Some(&login))
        };
        let own = to(None).unwrap();
        assert_eq!((own.api.as_str(), bearer(&own).as_str()), ("https://jit.corp:9292", "Bearer secret"));
        assert!(own.ca_file.is_some());
        assert_eq!(bearer(&to(Some("https://jit.corp:9292/")).unwrap()), "Bearer secret");
        let other = to(Some("https://evil.example")).unwrap_err().to_string();
        assert!(other.contains("the login is for https://jit.corp:9292"), "{other}");
        let clear = to(Some("http://jit.corp:9292")).unwrap_err().to_string();
        assert!(clear.contains("in clear"), "{clear}");
    }

    #[test]
    fn this_machine() {
        for (url, is) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://localhost.evil:1", false),
            ("http://127.0.0.1@evil:1", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_on_this_machine(url), is, "{url}");
        }
    }
}
