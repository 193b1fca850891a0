"Files of instruments: the same values, type, calibration and header after a round trip, and one sentence for what is wrong."
import gzip
import io
import json
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from dcd_nb.data import FileLimits, Limits, Measurements, Percentiles, TypeLimits, load_images, read_file, read_frames, write_file, write_frames
from dcd_nb.data.formats import Raw
from dcd_nb.errors import BadInput
from dcd_nb.operators import Corruption, Identity, RandomMask
from dcd_nb.cli import import_arrays, restore, sample

rng = np.random.default_rng(0)
whole = rng.integers(0, 30000, (4, 1, 12, 17))      # no side alike, so that a transposed picture is noticed
types = {'tif': 'uint8 uint16 int16 int32 float32 float64',
         'fits': 'uint8 uint16 int16 int32 float32 float64', 'mrc': 'int8 int16 uint16 float32',
         'mrcs': 'uint16 float32', 'dcm': 'uint8 int16 uint16', 'nii': 'uint8 int16 uint16 float32 float64',
         'h5': 'uint8 uint16 int32 float32', 'mat': 'uint8 uint16 float32 float64', 'npy': 'uint16 float32'}


def made(path, a, **kw):
    "A file with `a`, and what `read_file` says of it"
    about = Raw(a, **kw).about('')
    write_file(path, Raw(a, **kw).values(), about)
    return read_file(path)


@pytest.mark.parametrize('suffix,dtype', [(s, t) for s, ts in types.items() for t in ts.split()])
def test_values_and_type_come_back(tmp_path, suffix, dtype):
    a = (whole/7 if 'float' in dtype else whole % (100 if '8' in dtype else 30000)).astype(dtype)
    b, about = made(tmp_path/f'a.{suffix}', a)
    assert b.dtype == dtype == about['dtype'] and (b == a).all()
    write_file(tmp_path/f'b.{suffix}', b, about)
    again, said = read_file(tmp_path/f'b.{suffix}')
    assert (again == a).all() and said == about and json.loads(json.dumps(about)) == about
    one, _ = made(tmp_path/f'one.{suffix}', a[:1].reshape(1, 12, 17))
    assert (one == a[:1]).all()
    three, _ = made(tmp_path/f'three.{suffix}', a[:3])                             # and no colours
    assert three.shape == (3, 1, 12, 17) and (three == a[:3]).all()


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_png_of_16_bits_in_colour_too(tmp_path, dtype, channels):
    a = rng.integers(0, np.iinfo(dtype).max + 1, (channels, 12, 17)).astype(dtype)
    b, about = made(tmp_path/'a.png', a)
    assert about['dtype'] == dtype and (b[0] == a).all()
    if channels == 1:
        assert (np.asarray(Image.open(tmp_path/'a.png')) == a[0]).all()         # as others read it
    write_file(tmp_path/'b.tif', b, about)
    assert (read_file(tmp_path/'b.tif')[0] == b).all()


@pytest.mark.parametrize('suffix', ['fits', 'dcm', 'nii', 'h5'])
def test_calibration_is_applied_and_written_back(tmp_path, suffix):
    a = whole.astype(np.int16)
    v, about = made(tmp_path/f'a.{suffix}', a, slope=.5, intercept=-1024., unit='' if suffix == 'nii'
                    else 'HU')
    assert (v == a*.5 - 1024).all() and (about['slope'], about['intercept'],
                                         about['dtype']) == (.5, -1024., 'int16')
    assert about['unit'] == ('' if suffix == 'nii' else 'HU')
    frames = read_frames(tmp_path/f'a.{suffix}', scaling=Percentiles(1, 99))
    write_frames(tmp_path/f'b.{suffix}', frames.y, frames.about)
    w, said = read_file(tmp_path/f'b.{suffix}')
    assert (w == v).all() and said == about
    # TIFF has no calibration: floats in HU
    write_frames(tmp_path/'b.tif', frames.y, frames.about)
    w, said = read_file(tmp_path/'b.tif')
    assert said['dtype'] == 'float32' and np.abs(w - v).max() < 1e-2


def test_headers_come_back(tmp_path):
    from astropy.io import fits
    import mrcfile
    import nibabel
    import pydicom
    import tifffile
    a = whole[:, 0].astype(np.int16)
    h = fits.Header(dict(OBJECT='M 31', EXPTIME=30., CRVAL1=10.5, CRPIX1=3., DATAMIN=1, DATAMAX=20000,
                         BUNIT='adu'))
    fits.PrimaryHDU(a, h).writeto(tmp_path/'a.fits')
    with mrcfile.new(tmp_path/'a.mrc', a) as m: m.set_image_stack(); m.voxel_size = 1.5
    affine = np.array([[0, -2., 0, 5], [2, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    nibabel.Nifti1Image(a.transpose(2, 1, 0), affine).to_filename(tmp_path/'a.nii')
    tifffile.imwrite(tmp_path/'a.tif', a.astype(np.uint16), imagej=True, resolution=(9., 9.),
                     metadata=dict(axes='TYX', unit='um', finterval=2., min=5., max=900.))
    for suffix in ('fits', 'mrc', 'nii', 'tif'):
        frames = read_frames(tmp_path/f'a.{suffix}')
        assert (frames.values[:, 0] == a).all()
        write_frames(tmp_path/f'b.{suffix}', frames.y, frames.about)
        assert (read_file(tmp_path/f'b.{suffix}')[0][:, 0] == a).all()
    back = fits.getheader(tmp_path/'b.fits')
    assert (back['OBJECT'], back['EXPTIME'], back['CRVAL1'], back['BUNIT']) == ('M 31', 30., 10.5, 'adu')
    assert mrcfile.open(tmp_path/'b.mrc').voxel_size.x == 1.5 and mrcfile.open(tmp_path/'b.mrc').is_image_stack()
    assert (nibabel.load(tmp_path/'b.nii').affine == affine).all() and nibabel.load(tmp_path/'b.nii').shape == (17, 12, 4)
    with tifffile.TiffFile(tmp_path/'b.tif') as t:
        assert t.imagej_metadata['unit'] == 'um' and t.pages[0].resolution == (9., 9.)
    assert repr(read_frames(tmp_path/'a.fits', FileLimits()).scaling) == 'Limits(low=1.0, high=20000.0)'
    assert repr(read_frames(tmp_path/'a.tif', FileLimits()).scaling) == 'Limits(low=5.0, high=900.0)'
    crop = read_frames(tmp_path/'a.fits').patches(6)[0]
    write_frames(tmp_path/'crop.fits', crop.y, crop.about)
    assert 'CRVAL1' not in fits.getheader(tmp_path/'crop.fits') and fits.getheader(tmp_path/'crop.fits')['OBJECT'] == 'M 31'
    made(tmp_path/'a.dcm', a[:1].copy(), slope=2., unit='HU',
         header=dict(Modality='CT', PixelSpacing=[.5, .5], WindowCenter=40, WindowWidth=400))
    d = pydicom.dcmread(tmp_path/'a.dcm')
    d.PatientName = 'Somebody'
    d.Modality, d.PixelSpacing, d.WindowCenter, d.WindowWidth = 'CT', [.5, .5], 40, 400
    d.save_as(tmp_path/'a.dcm')
    frames = read_frames(tmp_path/'a.dcm', FileLimits())
    assert repr(frames.scaling) == 'Limits(low=-160.0, high=240.0)' and 'Somebody' not in json.dumps(frames.about)
    write_frames(tmp_path/'b.dcm', frames.y, frames.about)
    back = pydicom.dcmread(tmp_path/'b.dcm')
    assert back.Modality == 'CT' and back.PixelSpacing == [.5, .5] and 'PatientName' not in back


def test_axes_of_stacks_come_back(tmp_path):
    import tifffile
    a = rng.integers(0, 65536, (2, 3, 2, 12, 17)).astype(np.uint16)
    for name, kw in dict(plain=dict(metadata=dict(axes='TZCYX'), photometric='minisblack'),
                         imagej=dict(imagej=True, metadata=dict(axes='TZCYX', unit='um'))).items():
        tifffile.imwrite(tmp_path/f'{name}.tif', a, **kw)
        frames = read_frames(tmp_path/f'{name}.tif')
        assert (frames.values == a.reshape(6, 2, 12, 17)).all()
        write_frames(tmp_path/'b.tif', frames.y, frames.about)
        with tifffile.TiffFile(tmp_path/'b.tif') as t:
            assert t.series[0].axes == 'TZCYX' and (t.asarray() == a).all()
    write_file(tmp_path/'a.mat', a[0].astype(float), Raw(a[0]).about(''))
    from scipy.io import loadmat
    # rows, columns, channels, frames
    assert loadmat(tmp_path/'a.mat')['images'].shape == (12, 17, 2, 3)
    assert (read_file(tmp_path/'a.mat')[0] == a[0]).all()


def test_either_byte_order_and_orientation(tmp_path):
    import mrcfile
    import nibabel
    import tifffile
    a = whole[:, 0].astype(np.int16)
    tifffile.imwrite(tmp_path/'a.tif', a, byteorder='>', photometric='minisblack')
    with mrcfile.new(tmp_path/'a.mrc') as m: m.set_data(a.astype('>i2'))
    nibabel.Nifti1Image(a.T, np.eye(4), nibabel.Nifti1Header(endianness='>')).to_filename(tmp_path/'a.nii')
    for suffix in ('tif', 'mrc', 'nii'): assert (read_file(tmp_path/f'a.{suffix}')[0][:, 0] == a).all()
    wrong = bytearray((tmp_path/'a.mrc').read_bytes())
    wrong[212:216] = b'\x44\x44\0\0'
    refused(lambda: read_file(bytes(wrong), 'wrong.mrc'), 'wrong.mrc cannot be read as MRC')
    swapped = b'II' + (tmp_path/'a.tif').read_bytes()[2:]
    refused(lambda: read_file(swapped, 'wrong.tif'), 'wrong.tif cannot be read as TIFF')
    for k in range(2, 9):
        Image.fromarray(a[0].astype(np.uint16)).save(tmp_path/'turned.tif', tiffinfo={274: k})
        im = Image.fromarray(a[0].astype(np.float32))
        im.getexif()[0x0112] = k
        assert (read_file(tmp_path/'turned.tif')[0][0, 0] == np.asarray(ImageOps.exif_transpose(im))).all(), k


def refused(f, words):
    "It ends in one sentence that has these words"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(BadInput) as e: f()
    assert words in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 400, str(e.value)


@pytest.mark.parametrize('suffix', [*types, 'png', 'fits.gz'])
def test_files_that_are_cut_short_are_refused(tmp_path, suffix):
    a = whole.astype(np.uint16) if suffix != 'png' else whole[0].astype(np.uint16)
    made(tmp_path/f'a.{suffix.removesuffix(".gz")}', a)
    raw = (tmp_path/f'a.{suffix.removesuffix(".gz")}').read_bytes()
    if suffix.endswith('.gz'): raw = gzip.compress(raw)
    assert (read_file(raw, f'whole.{suffix}')[0] == a.reshape(-1, 1, 12, 17)).all()
    # the last bytes may be a tag that nobody needs
    for k in (len(raw) - 25, len(raw) - 13, len(raw) - 1):
        try: assert (read_file(raw[:k], f'cut.{suffix}')[0] == a.reshape(-1, 1, 12, 17)).all()
        except BadInput as e: assert 'cannot be read' in str(e)
    for k in (0, 3, len(raw)//20, len(raw)//3, len(raw)//2, int(.6*len(raw))):
        refused(lambda: read_file(raw[:k], f'cut.{suffix}'), f'cut.{suffix} cannot be read')
    refused(lambda: read_file(b'hello'*200, f'text.{suffix}'), f'text.{suffix}')


def test_a_tiff_that_has_lost_its_last_pages_is_refused():
    import tifffile
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as w:
        for im in whole[:, 0].astype(np.uint16): w.write(im, metadata=None)
    raw = out.getvalue()
    assert len(read_file(raw, 'a.tif')[0]) == 4
    for k in range(700, len(raw) - 10, 97):
        refused(lambda: read_file(raw[:k], 'a.tif'), 'a.tif cannot be read')


def test_a_codec_that_is_not_installed_is_named(tmp_path):
    import pydicom
    from pydicom.encaps import encapsulate
    import tifffile
    out = io.BytesIO()
    Image.fromarray(whole[0, 0].astype(np.uint16)).save(out, 'tiff', compression='tiff_lzw')
    try: import imagecodecs
    except ImportError: refused(lambda: read_file(out.getvalue(), 'a.tif'), 'pip install imagecodecs')
    out = io.BytesIO()
    # this one Python has
    tifffile.imwrite(out, whole[:, 0].astype(np.uint16), compression='zlib', photometric='minisblack')
    assert (read_file(out.getvalue(), 'a.tif')[0] == whole).all()
    made(tmp_path/'a.dcm', whole[:1].astype(np.uint16))
    d, out = pydicom.dcmread(tmp_path/'a.dcm'), io.BytesIO()
    d.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    d.PixelData = encapsulate([bytes(100)])
    d['PixelData'].is_undefined_length = True
    d.save_as(out)
    refused(lambda: read_file(out.getvalue(), 'a.dcm'), 'pip install pylibjpeg')


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_a_colour_profile_is_said(tmp_path, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    a = rng.integers(0, 256, (12, 17, 3)).astype(np.uint8)
    Image.fromarray(a).save(tmp_path/f'a.{suffix}', icc_profile=profile)
    with pytest.warns(UserWarning, match='has a colour profile'): b, _ = read_file(tmp_path/f'a.{suffix}')
    assert (b[0] == a.transpose(2, 0, 1)).all()


def test_missing_values_are_nan_and_a_mask(tmp_path):
    a = whole.astype(np.int16)
    a[0, 0, :2] = -99
    for suffix in ('fits', 'h5', 'dcm', 'tif'):
        v, about = made(tmp_path/f'a.{suffix}', a, blank=-99)
        assert np.isnan(v).sum() == 34 and about['blank'] == -99, suffix
        frames = read_frames(tmp_path/f'a.{suffix}', scaling=(0, 30000))
        ys = Measurements.from_arrays(frames.y, RandomMask(34/a.size), frames.sigma(60), state=frames.mask,
                                      about=frames.about)
        assert int((ys.state == 0).sum()) == 34
        refused(lambda: load_images(tmp_path/f'a.{suffix}'), 'pixels without a value')
        refused(lambda: Measurements.from_arrays(frames.y, Identity()), 'NaN')
        write_frames(tmp_path/f'b.{suffix}', frames.y, frames.about)
        assert np.array_equal(read_file(tmp_path/f'b.{suffix}')[0], v, equal_nan=True)
    np.save(tmp_path/'a.npy', np.where(np.arange(64).reshape(1, 1, 8, 8) == 5, np.nan, .5))
    refused(lambda: load_images(tmp_path/'a.npy'), 'pixels without a value')
    refused(lambda: Corruption(Identity()).measure(frames.y), 'pixels without a value')
    refused(lambda: write_file(tmp_path/'a.png', np.full((1, 1, 4, 4), np.nan), Raw(a[0]).about(''),
                               'uint16'), 'NaN')


def test_what_cannot_be_used_is_said(tmp_path):
    import h5py
    with h5py.File(tmp_path/'two.h5', 'w') as f:
        f['a'], f['b/c'], f['z'] = whole, whole, whole + 1j
    refused(lambda: read_file(tmp_path/'two.h5'), "b/c (4, 1, 12, 17)")
    assert (read_file(tmp_path/'two.h5', dataset='b/c')[0] == whole).all()
    refused(lambda: read_file(tmp_path/'two.h5', dataset='b/d'), "did you mean 'b/c'")
    refused(lambda: read_file(tmp_path/'two.h5', dataset='z'), 'complex')
    refused(lambda: load_images(tmp_path/'two.h5'), 'pass dataset=')
    assert load_images(tmp_path/'two.h5', scaling=(0, 30000), dataset='b/c').shape == whole.shape
    Image.fromarray(np.dstack([whole[0, 0] % 255]*4).astype(np.uint8)).save(tmp_path/'clear.png')
    refused(lambda: read_file(tmp_path/'clear.png'), 'partly transparent')
    refused(lambda: read_frames([]), 'holds no file')
    refused(lambda: read_frames(tmp_path/'none'), 'does not exist')
    refused(lambda: write_frames(tmp_path/'a.tif', torch.zeros(1, 1, 4, 4), {}), 'holds no scaling')
    refused(lambda: Limits(3, 3), 'low=3')
    monkey = sys.modules.get('tifffile')
    try:
        sys.modules['tifffile'] = None
        refused(lambda: read_file(b'II', 'a.tif'), "dcd_nb[microscopy]")
    finally: sys.modules['tifffile'] = monkey


def test_a_fits_with_several_images_asks_which(tmp_path):
    "The error of an image may stand before the image"
    from astropy.io import fits
    a = whole[0, 0].astype(np.float32)
    parts = [fits.PrimaryHDU(), fits.ImageHDU(a/9, name='ERR'), fits.CompImageHDU(a.astype(np.int16), name='SCI')]
    fits.HDUList(parts).writeto(tmp_path/'a.fits')
    fits.HDUList(parts[:2]).writeto(tmp_path/'one.fits')
    fits.HDUList([*parts, fits.ImageHDU(a, name='SCI', ver=2)]).writeto(tmp_path/'two.fits')
    for name in ('SCI', 'sci', 2, '2'): assert (read_file(tmp_path/'a.fits', dataset=name)[0][0, 0] == a).all()
    assert (read_file(tmp_path/'one.fits')[0][0, 0] == a/9).all()
    refused(lambda: read_file(tmp_path/'a.fits'), '1 ERR (12, 17), 2 SCI (12, 17)): pass dataset=')
    refused(lambda: load_images(tmp_path/'a.fits'), 'holds 2 images')
    for wrong in ('SC', 0, 'PRIMARY'): refused(lambda: read_file(tmp_path/'a.fits', dataset=wrong), 'is none of the images')
    refused(lambda: read_file(tmp_path/'two.fits', dataset='SCI'), "'SCI' is 2 of the images")
    made(tmp_path/'a.tif', whole.astype(np.uint16))
    assert (read_file(tmp_path/'a.tif', dataset='0')[0] == whole).all()      # as a command gives it


def test_scaling_is_undone_and_sigma_follows(tmp_path):
    made(tmp_path/'a.tif', whole.astype(np.uint16))
    for scaling in (Percentiles(), TypeLimits(), (100, 20000), Limits(0, 4095)):
        frames = read_frames(tmp_path/'a.tif', scaling)
        assert np.abs(frames.scaling.undo(frames.y) - whole).max() < .01
        assert frames.sigma(60.)*(frames.scaling.high - frames.scaling.low) == pytest.approx(120)
        write_frames(tmp_path/'b.tif', frames.y, frames.about)
        assert (read_file(tmp_path/'b.tif')[0] == whole).all()
    noise = whole + 60*rng.normal(size=whole.shape)
    assert (frames.scaling.scale(noise) - frames.y).std() == pytest.approx(frames.sigma(60), rel=.1)


@pytest.mark.parametrize('by', ['place', 'frame', 'file'])
@pytest.mark.parametrize('stride', [None, 3])
def test_patches_for_training_and_held_out_share_no_pixel(tmp_path, by, stride):
    a = np.arange(3*40*50, dtype=np.int32).reshape(3, 1, 40, 50)              # each pixel tells where it was
    for k in range(4): made(tmp_path/f'{k}.tif', a + k*a.size)
    frames = read_frames(str(tmp_path/'*.tif'), scaling=(0, 24000))
    train, held = frames.patches(8, held_out=.25, seed=1, stride=stride, by=by)
    t, h = np.unique(train.values), np.unique(held.values)
    assert len(t) and len(h) and not np.intersect1d(t, h).size
    # nor the same place of another frame of the file
    if by == 'place':
        for k in range(4):
            places = [np.unique(v[v//a.size == k] % (40*50)) for v in (t, h)]
            assert not np.intersect1d(*places).size
    again = frames.patches(8, held_out=.25, seed=1, stride=stride, by=by)
    assert all((p.values == q.values).all() for p, q in zip((train, held), again))
    assert not np.array_equal(frames.patches(8, held_out=.25, seed=2, by=by)[1].values, held.values)
    assert repr(train.scaling) == repr(held.scaling) == repr(frames.scaling)


def test_load_images_takes_files_folders_archives_and_lists(tmp_path):
    a = whole.astype(np.uint16)
    (tmp_path/'in').mkdir()
    made(tmp_path/'x.tif', a)
    for i, im in enumerate(a): made(tmp_path/f'in/{i}.tif', im)
    with zipfile.ZipFile(tmp_path/'in.zip', 'w') as z:
        for p in sorted((tmp_path/'in').iterdir()): z.write(p, p.name)
    want = torch.from_numpy(a/15000. - 1).float()
    for source in (tmp_path/'x.tif', tmp_path/'in', tmp_path/'in.zip', sorted((tmp_path/'in').iterdir()),
                   str(tmp_path/'in/*.tif')):
        assert (load_images(source, scaling=(0, 30000)) - want).abs().max() < 1e-6
    with pytest.warns(UserWarning, match='pass scaling=Limits'): x = load_images(tmp_path/'in')
    assert (x.min(), x.max()) == (-1, 1)
    assert load_images(tmp_path/'x.tif', size=8, scaling=(0, 30000)).shape == (4, 1, 8, 8)


def test_the_commands_keep_the_scaling(tmp_path, capsys):
    made(tmp_path/'x.tif', whole.astype(np.uint16))
    import_arrays(str(tmp_path/'x.tif'), str(tmp_path/'ys'), sigma=60, scaling='Limits(0, 30000)', patch=4,
                  held_out=.25, json=True)
    ys, held = Measurements.load(tmp_path/'ys'), Measurements.load(tmp_path/'ys-held')
    assert ys.sigma == pytest.approx(60/15000) and len(held) and json.loads(capsys.readouterr().out)['n'] == len(ys)
    write_frames(tmp_path/'back.tif', ys.y, ys.about)
    assert np.isin(read_file(tmp_path/'back.tif')[0], whole).all()
    with pytest.raises(SystemExit): sample('digits-noise', str(tmp_path/'s.tif'), n=2)
    assert 'pass --like' in capsys.readouterr().err


def test_restorations_and_samples_are_written_in_counts(tmp_path):
    counts = load_images('digits')[:6].numpy()*500 + 1500
    made(tmp_path/'x.tif', counts.round().astype(np.uint16))
    import_arrays(str(tmp_path/'x.tif'), str(tmp_path/'ys'), sigma=150, scaling='Limits(1000, 2000)')
    restore('digits-noise', str(tmp_path/'ys'), str(tmp_path/'r.tif'), n=4)
    sample('digits-noise', str(tmp_path/'s.tif'), n=5, like=str(tmp_path/'ys'))
    for name, n in (('r', 6), ('s', 5)):
        v, about = read_file(tmp_path/f'{name}.tif')
        assert v.shape == (n, 1, 8, 8) and about['dtype'] == 'uint16' and 850 < v.min() < v.max() < 2150
    assert np.corrcoef(read_file(tmp_path/'r.tif')[0].ravel(), counts.ravel())[0, 1] > .9
